"""Answers back to bytes: split a forward's output, take the top classes, spell JSON or .npy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
import torch

from smartbatch_worker.errors import RowError
from smartbatch_worker.tensors import to_json

JSON_TYPE = "application/json"
NPY_TYPE = "application/x-npy"


def split(output: Any, count: int) -> list[Any]:
    """Cut a forward's output into one answer an item.

    Args:
        output: a tensor [N, ...], a tuple/list or dict of such, or a list of N per-item values.
        count: N; checked here, once, against the output's length.

    Returns:
        N answers, in order: float32 or integer CPU tensors, or dicts and lists of them.
    """
    if isinstance(output, torch.Tensor):
        if output.ndim == 0 or output.shape[0] != count:
            raise ValueError(f"the model took {count} items and gave an output of shape {list(output.shape)}")
        return list(_to_cpu(output).unbind(0))
    if isinstance(output, Mapping):
        columns = {key: split(value, count) for key, value in output.items()}
        return [{key: values[index] for key, values in columns.items()} for index in range(count)]
    if isinstance(output, tuple):
        return [list(row) for row in zip(*(split(part, count) for part in output), strict=True)]
    if isinstance(output, Sequence):
        if len(output) != count:
            raise ValueError(f"the model took {count} items and gave {len(output)} answers")
        return [_to_cpu_tree(value) for value in output]
    raise TypeError(f"the model must give a tensor, or a dict, tuple or list of tensors; got {type(output).__name__}")


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu()


def _to_cpu_tree(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _to_cpu(value)
    if isinstance(value, Mapping):
        return {key: _to_cpu_tree(entry) for key, entry in value.items()}
    return [_to_cpu_tree(entry) for entry in value] if isinstance(value, (list, tuple)) else value


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


def encode_result(result: Any) -> bytes:
    """`{"result": …}`, in JSON."""
    return to_json({"result": to_plain(result)})


def encode_npy(answers: Sequence[Any], has_batch_dim: bool) -> bytes:
    """Raw outputs as one .npy array: [K], or [N, K] for a request of N items.

    Raises:
        ValueError: the model's answers are not single tensors.
    """
    if not all(isinstance(answer, torch.Tensor) for answer in answers):
        raise ValueError("this model answers with several tensors; ask for JSON instead of application/x-npy")
    stacked = torch.stack(list(answers)) if has_batch_dim else answers[0]
    stream = io.BytesIO()
    np.save(stream, stacked.numpy(), allow_pickle=False)
    return stream.getvalue()


def encode_error(error: RowError) -> bytes:
    """`{"error": {"code", "message"}}`, in JSON."""
    return to_json({"error": {"code": error.code, "message": error.message}})


def reason_phrase(status: int) -> str:
    """The standard phrase of an HTTP status."""
    return HTTPStatus(status).phrase
