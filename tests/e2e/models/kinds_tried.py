"""What each line of docs/models.md's table needs to be tried: files that it names, requests, plain PyTorch's answers.

Weights that nobody gave are read from the archive, so that it does not matter whether they could be fetched.
"""

from __future__ import annotations

import io
import json
import runpy
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import timm
import tokenizers
import torch
import torchvision
from PIL import Image
from smartbatch_worker.contract.shapes import IMAGENET_MEAN, IMAGENET_STD
from smartbatch_worker.models.detection import build_detector
from timm.data import create_transform, resolve_data_config
from torchvision.transforms.v2.functional import normalize, pil_to_tensor

from tests import small_transformers
from tests.detections import assert_found, spread, train
from tests.e2e.models.examples import EXAMPLES
from tests.e2e.models.test_named_inputs import SOURCES, body_of, plain
from tests.e2e.models.test_pictures import arrays, pictures
from tests.small_transformers import sentence, solo

NUM_REQUESTS = 16
NUM_CLASSES = 10
RAW = {"X-SmartBatch-Output": "raw"}
OWN_WEIGHTS = "weights of your own as above"
State = dict[str, torch.Tensor]
Request = dict[str, Any]
Asked = Sequence[tuple[Request, Any]]
"""Requests, and what plain PyTorch answers to each."""


def scaled(found: Any, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Close, by the largest of what is expected: compiled kernels round in another order."""
    atol = tolerance * float(expected.abs().max())
    torch.testing.assert_close(torch.as_tensor(found, dtype=expected.dtype), expected, rtol=0, atol=atol)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One line of the table."""

    files: Callable[[Path], Any] = lambda _: None
    """Writes what the line names into a folder; gives what `asked` needs of it."""
    asked: Callable[[Any, State], Asked]
    """Of that, and of the archive's weights."""
    read: Callable[[requests.Response], Any] = lambda reply: reply.json()["result"]
    compare: Callable[[Any, Any], None] = scaled
    """What was read, with what is expected."""


def _alone(module: torch.nn.Module, *inputs: torch.Tensor) -> Any:
    with torch.inference_mode():
        return module.eval()(*(each[None] for each in inputs))


def _npy(item: torch.Tensor) -> Request:
    stream = io.BytesIO()
    np.save(stream, item.numpy())
    return {"data": stream.getvalue(), "headers": RAW}


def _tensors(module: torch.nn.Module, *shape: int) -> Asked:
    generator = torch.Generator().manual_seed(0)
    items = [torch.rand(shape, generator=generator) for _ in range(NUM_REQUESTS)]
    return [(_npy(item), _alone(module, item)[0]) for item in items]


def _filled(module: Any, state: State) -> Any:
    module.load_state_dict(state)
    return module.eval()


def _names(folder: Path) -> None:
    (folder / "names.txt").write_text("\n".join(f"class {index}" for index in range(NUM_CLASSES)))


def _mine(module: torch.nn.Module, folder: Path, state: State | None = None) -> torch.nn.Module:
    """What the line's `--model-path mine.pth` and `--labels names.txt` are."""
    _names(folder)
    torch.save(module.state_dict() if state is None else state, folder / "mine.pth")
    return module.eval()


# torchvision


def _resnet50(num_classes: int = 1000) -> Any:
    return torchvision.models.resnet50(weights=None, num_classes=num_classes)


def _detected(model: Any) -> Asked:
    sent = pictures(60, 200, NUM_REQUESTS)
    with torch.inference_mode():
        return [
            ({"data": body, "headers": RAW}, model([pil_to_tensor(image).float() / 255])[0]) for image, body in sent
        ]


def _compare_boxes(found: Any, expected: Any) -> None:
    if len(expected["boxes"]):  # random weights are sure of nothing
        assert_found(found, expected)
    else:
        assert found == {"boxes": [], "labels": [], "scores": []}


def _detector(num_classes: int) -> Any:
    return build_detector("fasterrcnn_mobilenet_v3_large_320_fpn", num_classes).eval()


def _my_detector(folder: Path) -> Any:
    model = _detector(NUM_CLASSES)
    # Its batch norms see pictures: else all scores are nearly a tenth, and rounding decides which are the best hundred.
    train(model, runpy.run_path(str(EXAMPLES / "detection" / "pictures.py"))["draw"], 4)
    return _mine(model, folder, spread(model))


def _segmenter(num_classes: int) -> Any:
    return torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=num_classes
    ).eval()


def _segmented(model: Any) -> Asked:
    sent = pictures(60, 160, NUM_REQUESTS)
    shown = [
        normalize(pil_to_tensor(image).float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD)) for image, _ in sent
    ]
    headers = {**RAW, "Accept": "application/x-npz"}
    return [
        ({"data": body, "headers": headers}, _alone(model, each)["out"][0])
        for (_, body), each in zip(sent, shown, strict=True)
    ]


def _scores(reply: requests.Response) -> Any:
    return arrays(reply.content)["out"]


# timm


def _vit(num_classes: int = 1000) -> Any:
    return timm.create_model("vit_tiny_patch16_224", num_classes=num_classes).eval()


def _seen_by(model: Any) -> Asked:
    transform = create_transform(**resolve_data_config(model=model))
    sent = pictures(120, 300, NUM_REQUESTS)
    return [({"data": body, "headers": RAW}, _alone(model, transform(image))[0]) for image, body in sent]


def _compare_nearly(found: Any, expected: torch.Tensor) -> None:
    scaled(found, expected, 0.05)  # pixels are within two of 255 levels of timm's own


# Files of one's own


def _digits(folder: Path) -> torch.nn.Module:
    shutil.copy(EXAMPLES / "digits" / "model.py", folder)
    module = plain(folder.parent, folder.name)
    torch.save(module.state_dict(), folder / "weights.pth")
    return module


class Scores(torch.nn.Module):
    """What becomes a program: pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.look = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.out = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] to [N, 4]."""
        scores: torch.Tensor = self.out(torch.relu(self.look(x)).mean((2, 3)))
        return scores


def _exported(folder: Path) -> torch.nn.Module:
    """As the document's own block has it."""
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 224 * 224, 5)).eval()
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(module, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    return module


def _scripted(folder: Path) -> torch.nn.Module:
    module = Scores().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; its files are still served
        torch.jit.script(module).save(str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    return module


def _sentences(folder: Path) -> torch.nn.Module:
    (folder / "model.py").write_text(SOURCES["sentences"])
    example = {"inputs": {"ids": [5, 17, 3, 999, 4, 8], "mask": [1] * 6}}
    (folder / "request.json").write_text(json.dumps(example))
    return plain(folder.parent, folder.name)


def _of_sentences(module: torch.nn.Module) -> Asked:
    rng = np.random.default_rng(0)
    ids = [torch.from_numpy(rng.integers(1, 1000, 3 + 7 * at)) for at in range(NUM_REQUESTS)]
    items = [{"ids": each, "mask": torch.ones_like(each)} for each in ids]
    return [(body_of(at, item), _alone(module, *item.values())) for at, item in enumerate(items)]


def _compare_parts(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        np.testing.assert_allclose(np.array(found[name]), part[0].numpy(), atol=1e-5)


# Hugging Face


def _bert(kind: str, **settings: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        return small_transformers.bert(folder / "FOLDER", kind, **settings), _tokenizer(folder)

    return make


def _gpt2(folder: Path) -> Any:
    return small_transformers.gpt2(folder / "FOLDER"), _tokenizer(folder)


def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "FOLDER" / "tokenizer.json"))


def _of_texts(made: Any, expected: Callable[[Any, list[int]], Any]) -> Asked:
    model, tokenizer = made
    texts = [sentence(2 + seed, seed) for seed in range(NUM_REQUESTS)]
    return [({"json": {"text": text}, "headers": RAW}, expected(model, tokenizer.encode(text).ids)) for text in texts]


def _mean(model: Any, ids: list[int]) -> torch.Tensor:
    hidden = solo(model, ids).last_hidden_state[0].mean(0)
    return torch.nn.functional.normalize(hidden, dim=0)


def _goes_on(model: Any, ids: list[int]) -> list[int]:
    new: list[int] = []
    end = model.config.eos_token_id
    while len(new) < 64 and (best := int(solo(model, ids + new).logits[0, -1].argmax())) != end:
        new.append(best)
    return new


def _same(found: Any, expected: Any) -> None:
    assert found == expected


def _vit_folder(folder: Path) -> Any:
    return small_transformers.vit(folder / "FOLDER")


def _of_pictures(model: Any) -> Asked:
    """Pictures of the size that the model takes, so that there is nothing to resize but by the processor's 36 to 32."""
    asked = []
    for _, body in pictures(36, 37, NUM_REQUESTS):
        pixels = pil_to_tensor(Image.open(io.BytesIO(body))).float() / 255
        shown = (pixels[:, 2:34, 2:34] - 0.5) / 0.5
        with torch.inference_mode():
            asked.append(({"data": body, "headers": RAW}, model(pixel_values=shown[None]).logits[0]))
    return asked


TRIED: dict[str, Tried] = {
    "a torchvision classifier": Tried(asked=lambda _, state: _tensors(_filled(_resnet50(), state), 3, 64, 64)),
    "… with weights of your own": Tried(
        files=lambda folder: _mine(_resnet50(NUM_CLASSES), folder), asked=lambda made, _: _tensors(made, 3, 64, 64)
    ),
    "a torchvision detector": Tried(
        asked=lambda _, state: _detected(_filled(_detector(91), state)), compare=_compare_boxes
    ),
    f"a torchvision detector; {OWN_WEIGHTS}": Tried(
        files=_my_detector, asked=lambda made, _: _detected(made), compare=_compare_boxes
    ),
    "a torchvision segmentation model": Tried(
        asked=lambda _, state: _segmented(_filled(_segmenter(21), state)), read=_scores
    ),
    f"a torchvision segmentation model; {OWN_WEIGHTS}": Tried(
        files=lambda folder: _mine(_segmenter(NUM_CLASSES), folder),
        asked=lambda made, _: _segmented(made),
        read=_scores,
    ),
    "a timm model": Tried(asked=lambda _, state: _seen_by(_filled(_vit(), state)), compare=_compare_nearly),
    f"a timm model; {OWN_WEIGHTS}": Tried(
        files=lambda folder: _mine(_vit(NUM_CLASSES), folder),
        asked=lambda made, _: _seen_by(made),
        compare=_compare_nearly,
    ),
    "`model.py` and a state dict": Tried(files=_digits, asked=lambda made, _: _tensors(made, 1, 8, 8)),
    "a `torch.export` program": Tried(files=_exported, asked=lambda made, _: _tensors(made, 3, 224, 224)),
    "a net of several inputs, or of integers": Tried(
        files=_sentences, asked=lambda made, _: _of_sentences(made), compare=_compare_parts
    ),
    "a TorchScript program": Tried(files=_scripted, asked=lambda made, _: _tensors(made, 3, 24, 30)),
    "a Hugging Face model": Tried(
        files=_bert("ForSequenceClassification", num_labels=3),
        asked=lambda made, _: _of_texts(made, lambda model, ids: solo(model, ids).logits[0]),
    ),
}
"""By what the table's first column says; of a line that goes on with `OWN_WEIGHTS`, both."""

TASKS: dict[str, Tried] = {
    "text-classification": TRIED["a Hugging Face model"],
    "token-classification": Tried(
        files=_bert("ForTokenClassification", num_labels=3),
        asked=lambda made, _: _of_texts(made, lambda model, ids: solo(model, ids).logits[0]),
    ),
    "feature-extraction": Tried(files=_bert("Model"), asked=lambda made, _: _of_texts(made, _mean)),
    "text-generation": Tried(files=_gpt2, asked=lambda made, _: _of_texts(made, _goes_on), compare=_same),
    "image-classification": Tried(files=_vit_folder, asked=lambda made, _: _of_pictures(made)),
}
"""By `--task`, which each of these folders tells by itself."""
