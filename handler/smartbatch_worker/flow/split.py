"""A forward's output to one answer an item.

    tensor [N, …]                              its rows
    dict, or tuple, of such                    a dict, or list, of each part's row
    list of tensors that all have N rows       as a tuple
    list of N entries                          one entry an item: detections, texts

What a model gives is never taken for anything else: a wrong length fails all items with both numbers, since to try
them in smaller numbers until a length fits would hand one client what belongs to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from smartbatch_worker.errors import ModelFailed, WrongAnswerCount

Path = tuple[Any, ...]
"""Keys and indexes from the output down to one of its lists."""


class AnswerSplitter:
    """Cuts the outputs of one model.

    A list of N tensors of N rows each can be read in both ways. Which one a model means does not change from forward
    to forward, so it is remembered from one that leaves no doubt; where none came yet, the model runs on another number
    of items as well.
    """

    def __init__(self) -> None:
        self._holds_parts: dict[Path, bool] = {}

    def split(self, output: Any, count: int, run_again: Callable[[int], Any]) -> list[Any]:
        """Cut a forward's output into one answer an item.

        Args:
            output: what the model gave for `count` items.
            count: N; checked here, once, against the output's length.
            run_again: runs the model on the first `n` of these items, or on two of one.

        Returns:
            N answers, in order: CPU tensors of float32, float64 or integers, or dicts and lists of them. Their memory
            is their own, not the model's nor the batch's.

        Raises:
            WrongAnswerCount: the output is not one answer an item; the message has both numbers.
            ModelFailed: it is nothing that can be cut.
        """
        doubtful = [path for path in _lists_in_doubt(output, count, ()) if path not in self._holds_parts]
        if doubtful:
            # Parts are as many whatever the number of items is.
            other = run_again(count - 1 if count > 1 else 2)
            for path in doubtful:
                self._holds_parts[path] = len(_at(other, path)) == count
            output = run_again(count)  # the first may lie in memory that was used again
        return self._split(output, count, ())

    def _split(self, output: Any, count: int, path: Path) -> list[Any]:
        if isinstance(output, torch.Tensor):
            if output.ndim == 0 or output.shape[0] != count:
                raise WrongAnswerCount(f"the model took {count} items and gave an output of shape {list(output.shape)}")
            return list(_own(output).unbind(0))
        if isinstance(output, Mapping):
            columns = {key: self._split(value, count, (*path, key)) for key, value in output.items()}
            return [{key: values[index] for key, values in columns.items()} for index in range(count)]
        if isinstance(output, tuple) or (isinstance(output, list) and self._is_parts(output, count, path)):
            if not output:
                raise WrongAnswerCount(f"the model took {count} items and gave an empty {type(output).__name__}")
            parts = [self._split(part, count, (*path, index)) for index, part in enumerate(output)]
            return [list(row) for row in zip(*parts, strict=True)]
        if isinstance(output, list):
            if len(output) != count:
                raise WrongAnswerCount(f"the model took {count} items and gave {_describe(output)}")
            return [_own_tree(value) for value in output]
        raise ModelFailed(
            f"the model must give a tensor, or a dict, tuple or list of tensors; it gave a {type(output).__name__}"
        )

    def _is_parts(self, output: Sequence[Any], count: int, path: Path) -> bool:
        if not _have_rows(output, count):
            return False
        if len(output) != count:
            self._holds_parts[path] = True
            return True
        return self._holds_parts[path]


def _lists_in_doubt(output: Any, count: int, path: Path) -> list[Path]:
    """The lists that may be one entry an item as well as parts of each item's answer."""
    if isinstance(output, Mapping):
        return [found for key, value in output.items() for found in _lists_in_doubt(value, count, (*path, key))]
    if isinstance(output, tuple):
        return [found for index, value in enumerate(output) for found in _lists_in_doubt(value, count, (*path, index))]
    is_doubtful = isinstance(output, list) and len(output) == count and _have_rows(output, count)
    return [path] if is_doubtful else []


def _have_rows(output: Sequence[Any], count: int) -> bool:
    """Whether all are tensors of `count` rows."""
    return bool(output) and all(
        isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == count for value in output
    )


def _at(output: Any, path: Path) -> Any:
    for key in path:
        output = output[key]
    return output


def _describe(output: Sequence[Any]) -> str:
    """A list of the wrong length, in words; of tensors their first sizes, which may be what is wrong."""
    told = f"{len(output)} answers"
    if output and all(isinstance(value, torch.Tensor) and value.ndim > 0 for value in output):
        told += f", tensors of {', '.join(str(value.shape[0]) for value in output[:8])} rows"
    return told


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, in memory of its own: a module may answer with its input, or into a buffer it keeps."""
    tensor = tensor.detach()
    is_half = tensor.is_floating_point() and tensor.dtype != torch.float64
    own = (tensor.float() if is_half else tensor).cpu()
    return own.clone() if own.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() else own


def _own_tree(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _own(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _own_tree(entry) for key, entry in value.items()}
    return [_own_tree(entry) for entry in value] if isinstance(value, (list, tuple)) else value
