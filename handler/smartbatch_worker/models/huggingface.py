"""A Hugging Face model: the folder with its config.json and safetensors, unchanged, by the library `transformers`.

    config.json ─task─▶ transformers' class ─▶ module of named tensors to what is served

Nothing is fetched, no code of the folder's runs, and no pickle is read. The library is the extra `hf`, imported when
such a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights, first_line

_WEIGHTS = "*.safetensors"


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Load the folder of `config.model` for `config.task`.

    Raises:
        ModelLoadError: there is no transformers, the folder is damaged or lacks a part of the model, or the task is not
            said.
    """
    path = model_dir / config.model
    if config.weights is not None:
        raise ModelLoadError(f"{config.model}: its weights lie beside it; {config.weights} cannot be put in it")
    if config.task is None:
        raise ModelLoadError(f"{config.model}: task must be one of {', '.join(TASKS)}; none is set")
    auto, wrap = TASKS[config.task]
    model = _from_pretrained(path, getattr(_transformers(), auto), config.task)
    return wrap(model, config)


class _Guarded(torch.nn.Module):
    """A model of texts that refuses what would take it beyond its tables: on a GPU that ends a worker."""

    def __init__(self, model: torch.nn.Module, config: WorkerConfig) -> None:
        super().__init__()
        self.model = model
        self._max_length = config.max_length
        settings: Any = model.config
        self._num_tokens = getattr(settings, "vocab_size", None)

    def check_inputs(self, *, input_ids: torch.Tensor | None = None, **others: torch.Tensor) -> None:
        """Of what is computed without Python, too.

        Raises:
            ValueError: a text of [N, L] is too long, or of numbers that are no tokens.
        """
        if input_ids is None:
            return
        ids = input_ids
        if ids.shape[1] > self._max_length:
            raise ValueError(f"the size of a text is {ids.shape[1]} tokens; at most {self._max_length} (max_length)")
        if self._num_tokens is not None and (int(ids.min()) < 0 or int(ids.max()) >= self._num_tokens):
            raise ValueError(f"input_ids out of range: the model has tokens from 0 to {self._num_tokens - 1}")


class Scores(_Guarded):
    """A classifier of texts, tokens or images: its named inputs, or [N, C, H, W] alone, to logits [N, K], [N, L, K]."""

    def __init__(self, model: torch.nn.Module, config: WorkerConfig) -> None:
        super().__init__(model, config)
        settings: Any = model.config
        if getattr(settings, "pad_token_id", None) is None:
            settings.pad_token_id = _pad_of(config)  # models that look for a text's last token need to know

    def forward(self, pixel_values: torch.Tensor | None = None, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits."""
        if pixel_values is not None:
            inputs["pixel_values"] = pixel_values
        self.check_inputs(**inputs)
        logits: torch.Tensor = self.model(**inputs).logits
        return logits


class Embedding(_Guarded):
    """One vector a text, of those of its tokens: their mean without padding, or the first one's."""

    def __init__(self, model: torch.nn.Module, config: WorkerConfig) -> None:
        super().__init__(model, config)
        self._pooling, self._normalize = config.pooling, config.normalize

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """[N, L] each to [N, D]."""
        self.check_inputs(**inputs)
        vectors = self.model(**inputs).last_hidden_state  # [N, L, D]
        if self._pooling == "cls":
            pooled = vectors[:, 0]
        else:
            mask = inputs["attention_mask"].unsqueeze(-1).to(vectors.dtype)
            pooled = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self._normalize else pooled


class Generation(_Guarded):
    """A causal language model: prompts, padded on the left, to the tokens that it goes on with, the likeliest each.

    Sampling would make an answer depend on who shares its batch; what generation_config.json says of it is not used,
    what it says of the tokens that end a text is.
    """

    def __init__(self, model: torch.nn.Module, config: WorkerConfig) -> None:
        super().__init__(model, config)
        given: Any = getattr(model, "generation_config", None)
        eos = getattr(given, "eos_token_id", None)
        if eos is None:
            eos = getattr(model.config, "eos_token_id", None)
        self._eos = [] if eos is None else list(eos) if isinstance(eos, (list, tuple)) else [int(eos)]
        self._settings = _transformers().GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self._eos or None,
            pad_token_id=_pad_of(config),
        )
        model.generation_config = self._settings  # else its own fills what ours leaves open

    def forward(self, **inputs: torch.Tensor) -> list[torch.Tensor]:
        """[N, L] each to N lists of token numbers, of at most max_new_tokens, without the one that ends the text."""
        self.check_inputs(**inputs)
        model: Any = self.model
        written = model.generate(**inputs, generation_config=self._settings)
        new = written[:, inputs["input_ids"].shape[1] :]
        return [self._until_end(row) for row in new]

    def _until_end(self, row: torch.Tensor) -> torch.Tensor:
        ends = torch.isin(row, torch.tensor(self._eos, device=row.device)).nonzero() if self._eos else row[:0]
        return row[: int(ends[0])] if len(ends) else row


Wrap = Callable[[torch.nn.Module, WorkerConfig], torch.nn.Module]
TASKS: Mapping[str, tuple[str, Wrap]] = {
    "text-classification": ("AutoModelForSequenceClassification", Scores),
    "token-classification": ("AutoModelForTokenClassification", Scores),
    "feature-extraction": ("AutoModel", Embedding),
    "image-classification": ("AutoModelForImageClassification", Scores),
    "text-generation": ("AutoModelForCausalLM", Generation),
}
"""By task: the class of transformers that loads it, and what makes of it the module that is served."""


def _from_pretrained(path: Path, auto: Any, task: str) -> torch.nn.Module:
    folder = path.parent
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such file")
    if not any(folder.glob(_WEIGHTS)):
        raise ModelLoadError(f"{folder}: has no {_WEIGHTS}; other weights are not read, as they may run code")
    try:
        model, info = auto.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, where its own error says to look at a report
        )
    except Exception as error:  # a damaged folder can fail in any way at all
        hint = "; code that a model brings along is not run: a model.py that holds it is" if _brings_code(path) else ""
        raise ModelLoadError(f"{folder}: transformers cannot load it for {task} ({first_line(error)}){hint}") from error
    missing = [key for key in info["missing_keys"] if not _is_unused(key, task)]
    missing.sort(key=lambda key: (key.count("."), key))  # a head's own before those of layers within layers
    if missing:
        raise ModelLoadError(
            f"{folder}: its weights lack {missing[0]!r}{_and_more(missing)}, which {type(model).__name__} needs: it "
            f"was not trained for {task}, or is damaged"
        )
    if mismatched := sorted(map(str, info["mismatched_keys"])):
        raise ModelLoadError(f"{folder}: {mismatched[0]}{_and_more(mismatched)} has another shape than config.json has")
    assert isinstance(model, torch.nn.Module)
    return model


def _brings_code(path: Path) -> bool:
    try:
        return "auto_map" in json.loads(path.read_bytes())
    except (ValueError, TypeError):
        return False


def _is_unused(key: str, task: str) -> bool:
    """Whether no answer depends on a weight: vectors are pooled by us."""
    return task == "feature-extraction" and key.startswith("pooler.")


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _pad_of(config: WorkerConfig) -> int | None:
    """What texts are padded with."""
    return next(
        (int(spec.pad) for spec in config.inputs or () if spec.name == "input_ids" and spec.pad is not None), None
    )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelLoadError(
            f"a Hugging Face model needs {error.name}: pip install 'smartbatch[hf]' where the server runs"
        ) from error
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


KIND = Kind(
    name="huggingface",
    suffix="config.json",
    load=load,
    own_weights=f"file {_WEIGHTS} beside {{model}}",
    may_be_read=lambda config: config.task != "text-generation",
    libraries=("transformers",),
    settings=("task", "max_new_tokens", "pooling", "normalize"),
    weights_beside=_WEIGHTS,
)
