"""Answers back to bytes: take the top classes, spell JSON or .npy, within what the frontend takes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
import orjson
import torch

from smartbatch_worker.contract import media_types
from smartbatch_worker.errors import AnswerTooLarge, ModelRejected, RowError

JSON_TYPE = media_types.JSON
NPY_TYPE = media_types.NPY
_MIN_JSON_BYTES = 2  # of a number and its comma


def is_finite(answer: Any) -> bool:
    """Whether an answer holds no NaN and no infinity."""
    if isinstance(answer, torch.Tensor):
        return not answer.is_floating_point() or bool(np.isfinite(answer.numpy()).all())
    if isinstance(answer, Mapping):
        return all(is_finite(value) for value in answer.values())
    return all(is_finite(value) for value in answer) if isinstance(answer, list) else True


def top_classes(logits: Sequence[torch.Tensor], topk: int, labels: Sequence[str] | None) -> list[list[dict[str, Any]]]:
    """Softmax and the k best classes, for many items at once.

    Args:
        logits: float32 [K] each, K equal for all.
        topk: classes per answer; fewer where the model has fewer.
        labels: class names by index; the index as text where None or too short.

    Returns:
        Per item, best first: {"label", "index", "score"}.
    """
    scores, indices = torch.stack(list(logits)).softmax(-1).topk(min(topk, logits[0].shape[-1]))
    return [
        [
            {
                "label": labels[index] if labels and index < len(labels) else str(index),
                "index": index,
                "score": score,
            }
            for score, index in zip(row_scores, row_indices, strict=True)
        ]
        for row_scores, row_indices in zip(scores.tolist(), indices.tolist(), strict=True)
    ]


def to_plain(answer: Any) -> Any:
    """Tensors to arrays the JSON encoder writes natively."""
    if isinstance(answer, torch.Tensor):
        return np.ascontiguousarray(answer.numpy()) if answer.ndim else answer.item()
    if isinstance(answer, Mapping):
        return {str(key): to_plain(value) for key, value in answer.items()}
    return [to_plain(value) for value in answer] if isinstance(answer, (list, tuple)) else answer


def to_json(value: object) -> bytes:
    """Encode an answer; NumPy arrays are written natively, without a Python object per number."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_result(result: Any, max_bytes: int, key: str | None = "result") -> bytes:
    """`{"result": …}` (or another key, or without any), in JSON.

    Raises:
        AnswerTooLarge: it has more than `max_bytes`.
        TypeError: it holds what JSON cannot.
    """
    plain = to_plain(result)
    if key is not None:
        plain = {key: plain}
    _check_size(_MIN_JSON_BYTES * _count_numbers(plain), max_bytes)  # before gigabytes of text are written
    body = to_json(plain)
    _check_size(len(body), max_bytes)
    return body


def encode_npy(answers: Sequence[Any], has_batch_dim: bool, max_bytes: int) -> bytes:
    """Raw outputs as one .npy array: [K], or [N, K] for a request of N items.

    Raises:
        ModelRejected: the answers are no single tensors, or of several shapes.
        AnswerTooLarge: it has more than `max_bytes`.
    """
    if not all(isinstance(answer, torch.Tensor) for answer in answers):
        raise ModelRejected("this model answers with several tensors; ask for JSON instead of application/x-npy")
    shapes = sorted({tuple(answer.shape) for answer in answers})
    if len(shapes) > 1:
        told = ", ".join(str(list(shape)) for shape in shapes[:8])
        raise ModelRejected(f"the answers have several shapes ({told}), which is no array; ask for JSON instead")
    _check_size(sum(answer.nbytes for answer in answers), max_bytes)
    stacked = torch.stack(list(answers)) if has_batch_dim else answers[0]
    stream = io.BytesIO()
    np.save(stream, stacked.numpy(), allow_pickle=False)
    body = stream.getvalue()
    _check_size(len(body), max_bytes)
    return body


def _count_numbers(value: Any) -> int:
    """Numbers in the arrays of a plain answer."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, Mapping):
        return sum(map(_count_numbers, value.values()))
    return sum(map(_count_numbers, value)) if isinstance(value, list) else 0


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise AnswerTooLarge(
            f"the answer has at least {num_bytes} bytes; at most {max_bytes} are sent (max_response_size in "
            "config.properties): ask for fewer items, or for application/x-npy"
        )


def encode_error(error: RowError) -> bytes:
    """`{"error": {"code", "message"}}`, in JSON."""
    return to_json({"error": {"code": error.code, "message": error.message}})


def reason_phrase(status: int) -> str:
    """The standard phrase of an HTTP status."""
    return HTTPStatus(status).phrase
