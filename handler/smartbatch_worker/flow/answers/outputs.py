"""What of a model's answer a client wants: classes, boxes, a mask, a vector of length one, or all as it is.

raw          as the model gave it
topk         softmax, the k best classes             of [K]
labels       softmax, the best class                 of [K]; one a row of [T, K]
boxes        what was found, best first              of {boxes [n, 4], scores [n], labels [n]}
mask         each pixel's class                      of [K, H, W]
embedding    the vector, of length one               of [K]
text         what tokens stand for                   of [T], whole numbers; by the archive's tokenizer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.flow.encode import without_halves

_MAX_TOLD = 8

_SCORES = ("logits",)
_MASKS = ("out", "logits")
_VECTORS = ("embedding", "embeddings")
"""Keys of a dict under which torchvision's and transformers' models give what is wanted."""

_NEEDS = {
    "topk": "one floating-point score per class",
    "labels": "one floating-point score per class, of two classes at least, for the item or each of its rows",
    "boxes": "boxes [n, 4], scores [n] and labels [n]",
    "mask": "one floating-point score per class and pixel, [K, H, W]",
    "embedding": "one floating-point vector",
    "text": "token numbers [T], and a tokenizer in the archive",
}


def read_labels(model_dir: Path, name: str | None) -> list[str] | None:
    """Class names in index order, from `{"0": "tench", …}` in an archive; None where it has no such file."""
    if name is None or not (model_dir / name).is_file():
        return None
    mapping = json.loads((model_dir / name).read_text(encoding="utf-8"))
    return [mapping[str(index)] for index in range(len(mapping))]


def needs_words(form: str) -> bool:
    """Whether an answer of this form has names in it, which files of tensors cannot hold."""
    return form in ("topk", "labels", "boxes", "text")


def scores_of(answer: Any) -> torch.Tensor | None:
    """The scores [K] of a classifier's answer; None of another."""
    found = _pick(answer, _SCORES)
    return found if found is not None and found.ndim == 1 and found.is_floating_point() else None


def are_tokens(answer: torch.Tensor) -> bool:
    """Whether an answer is a list of whole numbers, as a model gives that writes."""
    return answer.ndim == 1 and not (answer.is_floating_point() or answer.is_complex() or answer.dtype == torch.bool)


def is_detection(answer: Any) -> bool:
    """Whether an answer is of the form that torchvision's detectors give."""
    if not isinstance(answer, Mapping):
        return False
    parts = (answer.get(key) for key in ("boxes", "scores", "labels"))
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if len(tensors) != 3:
        return False
    boxes, scores, labels = tensors
    is_shaped = boxes.ndim == 2 and boxes.shape[1] == 4 and scores.shape == labels.shape == boxes.shape[:1]
    return is_shaped and scores.is_floating_point() and not (labels.is_floating_point() or labels.is_complex())


def top_classes(logits: Sequence[torch.Tensor], topk: int, labels: Sequence[str] | None) -> list[list[dict[str, Any]]]:
    """Softmax and the k best classes, for many items at once.

    Args:
        logits: floating-point [K] each, K equal for all.
        topk: classes per answer; fewer where the model has fewer.
        labels: class names by index; the index as text where None or too short.

    Returns:
        Per item, best first: {"label", "index", "score"}.
    """
    scores, indices = without_halves(torch.stack(list(logits))).softmax(-1).topk(min(topk, logits[0].shape[-1]))
    return [
        [
            {"label": _name(labels, index), "index": index, "score": score}
            for score, index in zip(row_scores, row_indices, strict=True)
        ]
        for row_scores, row_indices in zip(scores.tolist(), indices.tolist(), strict=True)
    ]


def best_labels(answer: Any, labels: Sequence[str] | None) -> Any:
    """The best class {"label", "index", "score"} of scores [K], or a list of one for each row of [T, K].

    Raises:
        MalformedBody: the answer has no such scores.
    """
    scores = _pick(answer, _SCORES)
    if scores is None or scores.ndim not in (1, 2) or scores.shape[-1] < 2 or not scores.is_floating_point():
        raise misfit("labels", answer)
    rows = scores.unbind(0) if scores.ndim == 2 else [scores]
    found = [classes[0] for classes in top_classes(rows, 1, labels)] if rows else []
    return found if scores.ndim == 2 else found[0]


def found_boxes(answer: Any, threshold: float, labels: Sequence[str] | None) -> list[dict[str, Any]]:
    """What a detector found with a score of at least `threshold`, best first: {"label", "score", "box"} each.

    "box" is a tensor [x0, y0, x1, y1], as the model gives it: written as such, it is as short as its type allows.

    Raises:
        MalformedBody: the answer is no detector's.
    """
    if not is_detection(answer):
        raise misfit("boxes", answer)
    order = answer["scores"].argsort(descending=True, stable=True)
    scores, classes = (answer[key][order].tolist() for key in ("scores", "labels"))
    return [
        {"label": _name(labels, index), "score": score, "box": box}
        for score, index, box in zip(scores, classes, answer["boxes"][order].unbind(0), strict=True)
        if score >= threshold
    ]


def best_mask(answer: Any) -> torch.Tensor:
    """The best class of each pixel, uint8 [H, W], of scores [K, H, W]; with one class, where its score is above 0.

    Raises:
        MalformedBody: the answer has no such scores.
    """
    scores = _pick(answer, _MASKS)
    if scores is None or scores.ndim != 3 or len(scores) == 0 or not scores.is_floating_point():
        raise misfit("mask", answer)
    if len(scores) == 1:
        return (scores[0] > 0).to(torch.uint8)
    return scores.argmax(0).to(torch.uint8 if len(scores) <= 256 else torch.int32)


def unit_vector(answer: Any) -> torch.Tensor:
    """A vector [K], divided by its length; one of zeros stays so.

    Raises:
        MalformedBody: the answer is no vector.
    """
    vector = _pick(answer, _VECTORS)
    if vector is None or vector.ndim != 1 or not vector.is_floating_point():
        raise misfit("embedding", answer)
    return torch.nn.functional.normalize(without_halves(vector), dim=0)


def misfit(form: str, answer: Any) -> MalformedBody:
    """The error of an answer that is not what a form is made of."""
    return MalformedBody(
        f"output {form} needs a model that gives {_NEEDS[form]}; this one gives {_describe(answer)}; ask for raw"
    )


def _pick(answer: Any, names: Sequence[str]) -> torch.Tensor | None:
    """The one tensor of an answer, or the one that has the first of these names."""
    if isinstance(answer, torch.Tensor):
        return answer
    if not isinstance(answer, Mapping):
        return None
    found = next((answer[name] for name in names if name in answer), None)
    if found is None and len(answer) == 1:
        (found,) = answer.values()
    return found if isinstance(found, torch.Tensor) else None


def _name(labels: Sequence[str] | None, index: int) -> str:
    return labels[index] if labels and 0 <= index < len(labels) else str(index)


def _describe(answer: Any) -> str:
    if isinstance(answer, torch.Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    if isinstance(answer, Mapping):
        return "{" + ", ".join(f"{key}: {_describe(answer[key])}" for key in list(answer)[:_MAX_TOLD]) + "}"
    if isinstance(answer, list):
        return "[" + ", ".join(_describe(part) for part in answer[:_MAX_TOLD]) + "]"
    return f"a {type(answer).__name__}"
