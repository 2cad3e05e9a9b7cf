"""A forward's output to one answer an item.

    tensor [N, …]                              its rows
    dict, dataclass, named tuple of such       a dict of each part's row, by its name
    tuple of such                              a list of each part's row
    list of tensors that all have N rows       as a tuple
    list of N entries                          one entry an item: detections, texts

Parts that are None are left out. What a model gives is never taken for anything else: a wrong length fails all items
with both numbers, since to try them in smaller numbers until a length fits would hand one client what belongs to
another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from smartbatch_worker.errors import ModelFailed, WrongAnswerCount

Path = tuple[Any, ...]
"""Keys and indexes from the output down to one of its parts."""


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
            N answers, in order: CPU tensors of the output's dtype, or dicts and lists of them. Their memory is their
            own, not the model's nor the batch's.

        Raises:
            WrongAnswerCount: the output is not one answer an item; the message has both numbers.
            ModelFailed: it is nothing that can be cut.
        """
        output = _plain(output)
        doubtful = [path for path in _lists_in_doubt(output, count, ()) if path not in self._holds_parts]
        if doubtful:
            # Parts are as many whatever the number of items is.
            other = _plain(run_again(count - 1 if count > 1 else 2))
            for path in doubtful:
                self._holds_parts[path] = len(_at(other, path)) == count
            output = _plain(run_again(count))  # the first may lie in memory that was used again
        return self._split(output, count, ())

    def _split(self, output: Any, count: int, path: Path) -> list[Any]:
        if isinstance(output, torch.Tensor):
            return _rows(output, count, path)
        if isinstance(output, dict):
            _check_not_empty(output, count, path)
            columns = {key: self._split(value, count, (*path, key)) for key, value in output.items()}
            return [{key: values[index] for key, values in columns.items()} for index in range(count)]
        if isinstance(output, tuple) or (isinstance(output, list) and self._is_parts(output, count, path)):
            _check_not_empty(output, count, path)
            parts = [self._split(part, count, (*path, i)) for i, part in enumerate(output) if part is not None]
            return [list(row) for row in zip(*parts, strict=True)]
        if isinstance(output, list):
            if len(output) != count:
                raise WrongAnswerCount(f"the model took {count} items and gave {_describe(output)}{_where(path)}")
            return [_own_tree(value) for value in output]
        raise ModelFailed(
            "the model must give a tensor, or a dict, dataclass, tuple or list of tensors; "
            f"it gave a {type(output).__name__}{_where(path)}"
        )

    def _is_parts(self, output: Sequence[Any], count: int, path: Path) -> bool:
        if not _have_rows(output, count):
            return False
        is_flat = all(part is None or isinstance(part, torch.Tensor) for part in output)
        if len(output) != count:  # parts, unless another forward has shown it to be entries
            return is_flat and self._holds_parts.setdefault(path, True)
        if self._holds_parts[path] and not is_flat:
            raise ModelFailed(
                f"the model gave a list of {len(output)} {type(output[0]).__name__}s whatever the number of items"
                f"{_where(path)}: a list holds tensors, or one entry an item; give parts that are no tensors as a tuple"
            )
        return self._holds_parts[path]


def _rows(output: torch.Tensor, count: int, path: Path) -> list[torch.Tensor]:
    if output.is_nested:  # rows of several lengths
        rows = output.unbind()
        if len(rows) != count:
            raise WrongAnswerCount(f"the model took {count} items and gave {len(rows)} answers{_where(path)}")
        return [_own(row) for row in rows]
    if output.layout != torch.strided or output.is_quantized:
        kind = "quantized" if output.is_quantized else "sparse"
        raise ModelFailed(f"the model must give dense tensors; it gave a {kind} one{_where(path)}")
    if output.ndim == 0 or output.shape[0] != count:
        raise WrongAnswerCount(
            f"the model took {count} items and gave an output of shape {list(output.shape)}{_where(path)}"
        )
    return list(_own(output).unbind(0))


def _plain(output: Any) -> Any:
    """Everything with names as a dict; parts that are None left out, but for those of lists, which may be answers.

    What transformers answers with is a mapping and a dataclass: as a mapping it has what was set.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        named: Mapping[Any, Any] = output
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        named = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    elif isinstance(output, tuple):
        names = getattr(output, "_fields", None)
        if names is None:
            return tuple(_plain(part) for part in output if part is not None)
        named = dict(zip(names, output, strict=True))
    else:
        return [_plain(entry) for entry in output] if isinstance(output, list) else output
    return {key: _plain(value) for key, value in named.items() if value is not None}


def _lists_in_doubt(output: Any, count: int, path: Path) -> list[Path]:
    """The lists that may be one entry an item as well as parts of each item's answer."""
    if isinstance(output, dict):
        return [found for key, value in output.items() for found in _lists_in_doubt(value, count, (*path, key))]
    if isinstance(output, tuple):
        return [found for index, value in enumerate(output) for found in _lists_in_doubt(value, count, (*path, index))]
    is_doubtful = isinstance(output, list) and len(output) == count and _have_rows(output, count)
    return [path] if is_doubtful else []


def _have_rows(output: Sequence[Any], count: int) -> bool:
    """Whether there are tensors in it, and all are of `count` rows."""
    found = False
    for tensor in _tensors(output):
        if tensor.is_nested or tensor.ndim == 0 or tensor.shape[0] != count:
            return False
        found = True
    return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _tensors(entry)


def _at(output: Any, path: Path) -> Any:
    try:
        for key in path:
            output = output[key]
        len(output)
    except (LookupError, TypeError):
        raise ModelFailed("the model gives another structure for another number of items") from None
    return output


def _check_not_empty(output: dict[Any, Any] | Sequence[Any], count: int, path: Path) -> None:
    if not output:
        raise WrongAnswerCount(f"the model took {count} items and gave an empty {type(output).__name__}{_where(path)}")


def _where(path: Path) -> str:
    return f" as {'.'.join(map(str, path))!r}" if path else ""


def _describe(output: Sequence[Any]) -> str:
    """A list of the wrong length, in words; of tensors their first sizes, which may be what is wrong."""
    told = f"{len(output)} answers"
    if output and all(isinstance(value, torch.Tensor) and value.ndim > 0 for value in output):
        told += f", tensors of {', '.join(str(value.shape[0]) for value in output[:8])} rows"
    return told


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, in memory of its own: a module may answer with its input, or into a buffer it keeps."""
    tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():  # views, which NumPy does not know
        tensor = tensor.resolve_conj().resolve_neg()
    own = tensor.cpu()
    return own.clone() if own.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() else own


def _own_tree(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _own(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _own_tree(entry) for key, entry in value.items()}
    return [_own_tree(entry) for entry in value] if isinstance(value, (list, tuple)) else value
