"""The `handler:` section of model-config.yaml, as one checked value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from smartbatch_worker.contract import environment, inputs
from smartbatch_worker.contract.inputs import Inputs, Lengths, Outputs
from smartbatch_worker.contract.pictures import FITS, Sides, check_sides, parse_sides, size_shown
from smartbatch_worker.contract.shapes import IMAGENET_MEAN, IMAGENET_STD, takes_pictures

PRECISIONS = ("fp32", "bf16", "fp16")
_COMPILERS = ("auto", "off", "winograd", "inductor", "openvino", "onnxruntime", "cuda_graphs")
_LOADS = ("lazy", "eager")
OUTPUTS = ("auto", "raw", "topk", "labels", "boxes", "mask", "embedding", "text")
_ENVELOPES = ("result", "bare")
_NONFINITE = ("error", "allow")
_ORIENTATIONS = ("exif", "ignore")
_DECODERS = ("cpu", "gpu")
TASKS = ("text-classification", "token-classification", "feature-extraction", "image-classification", "text-generation")
"""As Hugging Face calls them."""
_POOLINGS = ("mean", "cls")
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Everything one model's handler can be told. Units stand in the names; `None` means "not set"."""

    model: str = "resnet18"
    """torchvision's name of a model, `timm/` and timm's, or a file: `model.py`, `*.pt`, `*.pt2`, `hf/config.json`."""
    model_class: str | None = None
    """The class in `model.py`; needed only where the file defines several `nn.Module`s."""
    weights: str | None = None
    """State dict in the archive, `.safetensors` or `.pth` (read with `weights_only=True`)."""
    weights_source: str | None = None
    """What the archive step recorded: pretrained, random, file or embedded."""
    weights_note: str | None = None
    """One line on where the weights are from; shown in status, the log and `X-SmartBatch-Weights`."""
    num_classes: int | None = None
    """Classes of the model's last layer, where they are not its default."""
    input_shape: tuple[int | None, ...] | None = (3, None, None)
    """Shape of one item, without the batch dimension; a null dimension is free; null accepts any shape."""
    inputs: Inputs | None = None
    """Named inputs, each {dtype, shape, pad}, where the model takes others than one of float32; beats input_shape."""
    lengths: Lengths = ()
    """By letter, the sizes that items are padded to, the last of them the most; not given: the longest of a forward."""
    outputs: Outputs = ()
    """Shapes of outputs in the inputs' letters: what was padded is cut off there."""
    max_tokens: int | None = None
    """Most tokens in one forward, padding included: items x the padded letter's size; for named inputs."""
    example: str | None = None
    """A request's body in the archive: calibration, canary, load tests and `serve`'s curl line are made of it."""
    image_resize: Sides = 256
    """What an image is resized to: a square's side, or [height, width], pixels; none leaves it as it is."""
    image_fit: str = "crop"
    """crop (the image covers image_resize), squash (becomes it, its proportions lost) or letterbox (fits within it)."""
    image_crop: Sides = 224
    """What of that is shown: the centre, a square's side or [height, width]; none shows all of it."""
    image_interpolation: str = "bilinear"
    """bilinear, bicubic or nearest."""
    image_decoder: str = "cpu"
    """cpu, or gpu: usual JPEGs are read on the worker's GPU, where it has one; pixels differ by 1 of 255 on average."""
    image_mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-channel mean subtracted from images and uint8 tensors scaled to 0-1."""
    image_std: tuple[float, ...] = IMAGENET_STD
    """Per-channel divisor applied after the mean."""
    image_orientation: str = "exif"
    """exif shows pictures upright, as people see them; ignore as their pixels are stored, for models trained so."""
    image_background: tuple[int, ...] = (255, 255, 255)
    """Colour behind transparent pixels and around small images: red, green, blue from 0 to 255, or `white`, `black`."""
    labels: str | None = "index_to_name.json"
    """Class names in the archive; answers fall back to indexes where the file is absent."""
    device: str = "auto"
    """auto (the GPU TorchServe gives this worker, else CPU), cpu, cuda or cuda:N."""
    precision: str = "fp32"
    """fp32, bf16 or fp16: the coarsest to compute in; on a CPU `compile: auto` takes fp32 where it is faster."""
    compile: str = "auto"
    """auto (the fastest that this machine has in this precision), off, winograd, inductor, openvino, onnxruntime or
    cuda_graphs."""
    threads: int | str = "auto"
    """Intra-op threads; auto shares the cores among those of this server's workers that compute right now."""
    load: str = "lazy"
    """lazy loads the weights at the first request, eager when the worker starts."""
    idle_unload_s: float = 0.0
    """Free the weights after this many idle seconds; 0 keeps them."""
    micro_batch: int | str = "auto"
    """Most items in one forward; auto times the real forward once and keeps the best."""
    target_p95_ms: float | None = None
    """Within which 95 of 100 batches are to be answered: the frontend then hands over fewer requests at once."""
    output: str = "auto"
    """auto (topk or boxes for images, topk for text, else raw), raw, topk, labels, boxes, mask, embedding or text."""
    topk: int = 5
    """Classes in a topk answer."""
    score_threshold: float = 0.5
    """Least score of a box in a boxes answer."""
    envelope: str = "result"
    """result: JSON answers are `{"result": …}`; bare: the answer alone, as TorchServe's own handlers give it."""
    max_pixels: int = 50_000_000
    """Largest image accepted, width x height, read from its header before any decoding."""
    max_items: int = 256
    """Most items in one request."""
    max_elements: int = 16_777_216
    """Most numbers in one request's tensor (64 MiB as float32)."""
    nonfinite: str = "error"
    """error refuses NaN and infinity in inputs and reports them in outputs; allow passes them on."""
    tokenizer: str | None = None
    """A tokenizer.json in the archive: requests may then be text."""
    max_length: int = 512
    """Tokens of one text; a longer one is cut, and its answer says so."""
    sample_rate: int | None = None
    """Of the sound that the model takes, Hz; WAV and FLAC are resampled to it. null: it takes none."""
    task: str | None = None
    """What a Hugging Face model is for: text-classification, token-classification, feature-extraction, …"""
    pooling: str = "mean"
    """From vectors of tokens to one of the text (feature-extraction): mean, or cls, the first token's."""
    normalize: bool = True
    """Whether that vector is divided by its length."""
    max_new_tokens: int = 64
    """Most tokens that text-generation adds to its prompt."""

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("compile", self.compile, _COMPILERS)
        _one_of("load", self.load, _LOADS)
        _one_of("output", self.output, OUTPUTS)
        _one_of("envelope", self.envelope, _ENVELOPES)
        _one_of("nonfinite", self.nonfinite, _NONFINITE)
        _one_of("image_interpolation", self.image_interpolation, _INTERPOLATIONS)
        _one_of("image_orientation", self.image_orientation, _ORIENTATIONS)
        _one_of("image_decoder", self.image_decoder, _DECODERS)
        _one_of("pooling", self.pooling, _POOLINGS)
        if self.task is not None:
            _one_of("task", self.task, TASKS)
        if self.sample_rate is not None:
            _at_least("sample_rate", self.sample_rate, 1)
        for name in ("max_length", "max_new_tokens"):
            _at_least(name, getattr(self, name), 1)
        _one_of("image_fit", self.image_fit, FITS)
        check_sides(self.image_resize, self.image_crop, self.image_fit)
        for name in ("topk", "max_pixels", "max_items", "max_elements"):
            _at_least(name, getattr(self, name), 1)
        for name in ("threads", "micro_batch"):
            value = getattr(self, name)
            if value != "auto":
                _at_least(name, value, 1)
        _at_least("idle_unload_s", self.idle_unload_s, 0)
        for name in ("num_classes", "max_tokens", "target_p95_ms"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold must be a number from 0 to 1; got {self.score_threshold!r}")
        if len(self.image_mean) != len(self.image_std):
            raise ValueError(
                "image_mean and image_std must have one number per channel each; "
                f"got {len(self.image_mean)} and {len(self.image_std)}"
            )
        if any(s == 0 for s in self.image_std):
            raise ValueError(f"image_std must not hold zero; got {list(self.image_std)}")
        if len(self.image_background) != 3 or not all(0 <= value <= 255 for value in self.image_background):
            raise ValueError(
                "image_background must be white, black or three numbers from 0 to 255 (red, green, blue); "
                f"got {list(self.image_background)}"
            )
        if self.device not in ("auto", "cpu", "cuda") and not self.device.startswith("cuda:"):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N; got {self.device!r}")
        if self.input_shape is not None and any(d is not None and d < 1 for d in self.input_shape):
            raise ValueError(f"input_shape takes positive numbers and null; got {list(self.input_shape)}")
        if self.inputs is not None and self.input_shape is not None:
            raise ValueError("inputs and input_shape exclude each other: input_shape is short for one float32 input")
        padded = inputs.padded_letters(self.inputs or ())
        if unknown := [letter for letter, _ in self.lengths if letter not in padded]:
            raise ValueError(f"lengths names {unknown[0]}, which no input pads; padded are {sorted(padded) or 'none'}")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every key the `handler:` section accepts."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def resolve(cls, section: Mapping[str, Any], env: Mapping[str, str]) -> WorkerConfig:
        """Merge YAML and environment: environment beats YAML beats default.

        Raises:
            ValueError: an unknown key or a value of the wrong kind, named with what is accepted.
        """
        merged: dict[str, Any] = {}
        for key, value in section.items():
            if key not in _PARSERS:
                raise ValueError(f"unknown key {key!r} in handler:; accepted are {', '.join(cls.names())}")
            merged[key] = _parse(key, value)
        for variable, text in env.items():
            if not variable.startswith(environment.PREFIX) or variable in environment.RESERVED:
                continue
            key = variable[len(environment.PREFIX) :].lower()
            if key not in _PARSERS:
                accepted = ", ".join(environment.PREFIX + k.upper() for k in cls.names())
                raise ValueError(f"unknown environment variable {variable}; accepted are {accepted}")
            merged[key] = _parse(key, text)
        if merged.get("inputs") is not None:
            merged.setdefault("input_shape", None)
        return cls(**merged)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of every image that the model is shown; None where they are each image's own."""
        return size_shown(self.image_resize, self.image_crop, self.image_fit)

    @property
    def takes_pictures(self) -> bool:
        """Whether a picture's file is an input of the model, or its only one."""
        if self.inputs is not None:
            return any(spec.image for spec in self.inputs)
        return takes_pictures(self.input_shape, len(self.image_mean))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        plain = {key: list(value) if isinstance(value := getattr(self, key), tuple) else value for key in self.names()}
        plain["inputs"] = None if self.inputs is None else {spec.name: spec.as_dict() for spec in self.inputs}
        plain["lengths"] = {letter: list(sizes) for letter, sizes in self.lengths}
        outputs = {name: list(sizes) for name, sizes in self.outputs}
        plain["outputs"] = outputs.get("", outputs)
        return plain


def _one_of(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}; got {value!r}")


def _at_least(name: str, value: Any, low: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a number of at least {low}; got {value!r}")


def _str(value: Any) -> str:
    # YAML 1.1 reads a bare `off` as False; "compile: off" must mean what it says.
    if value is False:
        return "off"
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value in ("", "null", "none") else parse(value)


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _bool(value: Any) -> bool:
    if value in (True, "true", "True", "on", "yes"):
        return True
    if value in (False, "false", "False", "off", "no"):
        return False
    raise TypeError


def _auto_or_int(value: Any) -> int | str:
    return "auto" if value == "auto" else _int(value)


def _sequence(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.strip("[]() ").split(",") if part.strip()]
    return list(value)


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(None if d in (None, "null", "*", "?") else _int(d) for d in _sequence(value))


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in _sequence(value))


def _colour(value: Any) -> tuple[int, ...]:
    if isinstance(value, str) and value in _COLOURS:
        return _COLOURS[value]
    return tuple(_int(part) for part in _sequence(value))


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "model": _str,
    "model_class": _optional(_str),
    "weights": _optional(_str),
    "weights_source": _optional(_str),
    "weights_note": _optional(_str),
    "num_classes": _optional(_int),
    "input_shape": _optional(_shape),
    "inputs": _optional(inputs.parse_inputs),
    "lengths": inputs.parse_lengths,
    "outputs": inputs.parse_outputs,
    "max_tokens": _optional(_int),
    "example": _optional(_str),
    "image_resize": parse_sides,
    "image_fit": _str,
    "image_crop": parse_sides,
    "image_interpolation": _str,
    "image_decoder": _str,
    "image_mean": _floats,
    "image_std": _floats,
    "image_orientation": _str,
    "image_background": _colour,
    "labels": _optional(_str),
    "device": _str,
    "precision": _str,
    "compile": _str,
    "threads": _auto_or_int,
    "load": _str,
    "idle_unload_s": float,
    "micro_batch": _auto_or_int,
    "target_p95_ms": _optional(float),
    "output": _str,
    "topk": _int,
    "score_threshold": float,
    "envelope": _str,
    "max_pixels": _int,
    "max_items": _int,
    "max_elements": _int,
    "nonfinite": _str,
    "tokenizer": _optional(_str),
    "max_length": _int,
    "sample_rate": _optional(_int),
    "task": _optional(_str),
    "pooling": _str,
    "normalize": _bool,
    "max_new_tokens": _int,
}
_EXPLAINED = ("inputs", "lengths", "outputs")
"""Keys whose values can be wrong in so many ways that their parsers say which."""
assert set(_PARSERS) == {f.name for f in fields(WorkerConfig)}, "every config key needs a parser"


def _parse(key: str, value: Any) -> Any:
    try:
        return _PARSERS[key](value)
    except (TypeError, ValueError) as error:
        why = f": {error}" if key in _EXPLAINED else ""
        raise ValueError(f"bad value for {key}: {value!r}{why}") from error
