"""Answers as files of tensors, with the model's own numbers and types: one as .npy, several as .npz or safetensors."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.open_inference import OUTPUT
from smartbatch_worker.errors import ModelRejected
from smartbatch_worker.flow.encode import check_size, without_halves

_MANY = f"{media_types.NPZ} or {media_types.SAFETENSORS}"


def encode_npy(answers: Sequence[Any], has_batch_dim: bool, max_bytes: int) -> bytes:
    """Outputs as one .npy array: [K], or [N, K] for a request of N items.

    Raises:
        ModelRejected: the answers are no single tensors, or of several shapes.
        AnswerTooLarge: it has more than `max_bytes`.
    """
    if not all(isinstance(answer, torch.Tensor) for answer in answers):
        raise ModelRejected(f"this model answers with several tensors, which is no {media_types.NPY}; ask for {_MANY}")
    shapes = sorted({tuple(answer.shape) for answer in answers})
    if len(shapes) > 1:
        told = ", ".join(str(list(shape)) for shape in shapes[:8])
        raise ModelRejected(f"the answers have several shapes ({told}), which is no array; ask for {_MANY}")
    check_size(sum(answer.nbytes for answer in answers), max_bytes)
    stream = io.BytesIO()
    np.save(stream, _to_array(torch.stack(list(answers)) if has_batch_dim else answers[0]), allow_pickle=False)
    body = stream.getvalue()
    check_size(len(body), max_bytes)
    return body


def encode_npz(answers: Sequence[Any], has_batch_dim: bool, max_bytes: int) -> bytes:
    """Outputs as an .npz file of the arrays that `name_tensors` names.

    Raises:
        ModelRejected: there is something in them that is no tensor.
        AnswerTooLarge: it has more than `max_bytes`.
    """
    tensors = _tensors_within(answers, has_batch_dim, media_types.NPZ, max_bytes)
    stream = io.BytesIO()
    # Not by `np.savez`, which takes names as arguments and has some of its own. Not packed: that takes more of a core
    # than the forwards of many models, and clients that want it have a network to pay for.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for name, tensor in tensors.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, _to_array(tensor), allow_pickle=False)
    body = stream.getvalue()
    check_size(len(body), max_bytes)
    return body


def encode_safetensors(answers: Sequence[Any], has_batch_dim: bool, max_bytes: int) -> bytes:
    """Outputs as safetensors of the tensors that `name_tensors` names.

    Raises:
        ModelRejected: there is something in them that is no tensor, or of a type that the format has not.
        AnswerTooLarge: it has more than `max_bytes`.
    """
    tensors = _tensors_within(answers, has_batch_dim, media_types.SAFETENSORS, max_bytes)
    try:
        body = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    except KeyError as error:
        raise ModelRejected(f"safetensors hold no {error.args[0]}; ask for {media_types.NPZ}") from None
    check_size(len(body), max_bytes)
    return body


def name_tensors(answers: Sequence[Any], has_batch_dim: bool) -> dict[str, torch.Tensor]:
    """The tensors of a request's answers.

    A single one is `result`; those of a list `result_0`, `result_1` …; those of a dict have their keys, and what lies
    within a part stands behind a point: `boxes.0`. Those of N items are stacked where they have one shape, and are
    `name.0`, `name.1` … where not.

    Raises:
        ModelRejected: there is none, something is none, or two would have the same name.
    """
    if not has_batch_dim:
        return _collect(_named(answers[0], ""))
    items = [_collect(_named(answer, "")) for answer in answers]
    return _collect(chain.from_iterable(_of_items(name, items) for name in dict.fromkeys(chain(*items))))


def _of_items(name: str, items: Sequence[Mapping[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    theirs = [item.get(name) for item in items]
    present = [tensor for tensor in theirs if tensor is not None]
    if len(present) == len(items) and len({(tensor.shape, tensor.dtype) for tensor in present}) == 1:
        yield name, torch.stack(present)
        return
    for index, tensor in enumerate(theirs):
        if tensor is not None:
            yield f"{name}.{index}", tensor


def _collect(named: Iterator[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    collected: dict[str, torch.Tensor] = {}
    for name, tensor in named:
        if name in collected:
            raise ModelRejected(f"two tensors of this answer would be named {name!r}; ask for {media_types.JSON}")
        collected[name] = tensor
    return collected


def _named(answer: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(answer, Mapping):
        for key, value in answer.items():
            yield from _named(value, f"{name}.{key}" if name else str(key))
    elif isinstance(answer, (list, tuple)) and not _are_numbers(answer):
        for index, value in enumerate(answer):
            yield from _named(value, f"{name}.{index}" if name else f"{OUTPUT}_{index}")
    elif answer is not None:
        yield name or OUTPUT, _to_tensor(answer, name or OUTPUT)


def _are_numbers(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, (bool, int, float)) for value in values)


def _to_tensor(value: Any, name: str) -> torch.Tensor:
    """What a model says in Python's or NumPy's numbers is a tensor too."""
    if isinstance(value, torch.Tensor):
        return value
    try:
        array = np.array(value, order="C")
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array)
    except (TypeError, ValueError):  # ragged; a type that torch has not
        pass
    raise ModelRejected(f"{name!r} of this answer is a {type(value).__name__}, not numbers; ask for {media_types.JSON}")


def _tensors_within(
    answers: Sequence[Any], has_batch_dim: bool, media_type: str, max_bytes: int
) -> dict[str, torch.Tensor]:
    tensors = name_tensors(answers, has_batch_dim)
    if not tensors:
        raise ModelRejected(f"this answer holds no tensor, and {media_type} nothing else; ask for {media_types.JSON}")
    check_size(sum(tensor.nbytes for tensor in tensors.values()), max_bytes)
    return tensors


def _to_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """float16 stays what it is; what NumPy has no type for, as bf16, is float32."""
    return (tensor if tensor.dtype == torch.float16 else without_halves(tensor)).numpy()
