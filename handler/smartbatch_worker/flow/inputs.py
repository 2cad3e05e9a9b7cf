"""Named tensors of one body to items: as many as the dtypes and shapes say that the model declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import InputSpec, describe
from smartbatch_worker.errors import WrongInputs, WrongShape
from smartbatch_worker.formats.limits import check_names, check_num_items

NamedInputs: TypeAlias = dict[str, torch.Tensor]
"""One item's tensors by the names of the model's inputs, without a batch dimension."""
Inputs: TypeAlias = Any
"""What one item is: the one tensor of a model of `input_shape`, or `NamedInputs`; a model's items are all the same."""

_MAX_TOLD = 6


def items_of(
    content: Mapping[str, torch.Tensor] | Sequence[NamedInputs], config: WorkerConfig
) -> tuple[list[NamedInputs], bool]:
    """Tensors to items.

    Args:
        content: one tensor an input, each of one item or each with N items in front; or a list of items.
        config: the model's inputs.

    Returns:
        The items, and whether there may be several, so that the answer is a list.

    Raises:
        WrongInputs: an input is missing or not the model's, or its numbers are not what is declared.
        WrongShape: an input has another shape than declared, or two disagree.
        BodyTooLarge: more than max_items items.
    """
    specs = config.inputs or ()
    if not isinstance(content, Mapping):
        check_num_items(len(content), config.max_items)
        return [checked(item, config) for item in content], True
    check_names(content, specs)
    extra = {content[spec.name].ndim - len(spec.shape) for spec in specs}
    if extra == {0}:
        return [checked(content, config)], False
    if extra != {1}:
        raise _wrong_shapes(content, specs)
    counts = {content[spec.name].shape[0] for spec in specs}
    if len(counts) != 1:
        raise WrongShape(f"the inputs disagree on the number of items: {sorted(counts)[:_MAX_TOLD]}")
    count = counts.pop()
    check_num_items(count, config.max_items)
    if count == 0:
        raise WrongShape("the inputs hold no item")
    columns = {spec.name: content[spec.name].unbind(0) for spec in specs}
    return [checked({name: column[at] for name, column in columns.items()}, config) for at in range(count)], True


def checked(item: Mapping[str, torch.Tensor], config: WorkerConfig) -> NamedInputs:
    """One item's tensors, in the order and the dtypes declared; uint8 pictures stay, to be normalised with the batch.

    Raises:
        RowError: as `items_of` has it.
    """
    specs = config.inputs or ()
    check_names(item, specs)
    most = {letter: sizes[-1] for letter, sizes in config.lengths}
    letters: dict[str, int] = {}
    made: NamedInputs = {}
    for spec in specs:
        tensor = as_declared(item[spec.name], spec)
        if spec.image and tensor.ndim == 3 and tensor.shape[0] != spec.shape[0] == tensor.shape[-1]:
            tensor = tensor.movedim(-1, 0)  # [H, W, C], as image libraries hold pixels
        if tensor.ndim != len(spec.shape):
            raise _wrong_shapes(item, specs)
        for size, declared in zip(tensor.shape, spec.shape, strict=True):
            if size == 0 or (isinstance(declared, int) and size != declared):
                raise _wrong_shapes(item, specs)
            if isinstance(declared, str) and letters.setdefault(declared, size) != size:
                raise WrongShape(
                    f"input {spec.name!r} has shape {list(tensor.shape)}, but {declared} is {letters[declared]} in "
                    "another input of this item"
                )
        if config.nonfinite == "error" and tensor.is_floating_point() and not _is_finite(tensor):
            raise WrongShape(f"input {spec.name!r} holds NaN, infinity or numbers beyond {spec.dtype}")
        made[spec.name] = tensor
    for letter, size in letters.items():
        if size > most.get(letter, size):
            raise WrongShape(f"{letter} is {size}; at most {most[letter]} is accepted (lengths in model-config.yaml)")
    return made


def as_declared(tensor: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """The same numbers in the declared dtype.

    Raises:
        WrongInputs: they would not be the same, as fractions in an input of integers; floats may be rounded.
    """
    wanted: torch.dtype = getattr(torch, spec.dtype)
    if tensor.dtype == wanted or (spec.image and tensor.dtype == torch.uint8):
        return tensor
    if wanted.is_floating_point:
        return tensor.to(wanted)
    if tensor.is_floating_point() or tensor.is_complex():
        raise WrongInputs(f"input {spec.name!r} is {spec.dtype}; got {_name(tensor.dtype)}")
    if wanted == torch.bool:
        if not bool(((tensor == 0) | (tensor == 1)).all()):
            raise WrongInputs(f"input {spec.name!r} is bool; got numbers other than 0 and 1")
    elif tensor.dtype != torch.bool:
        array, limits = tensor.numpy(), torch.iinfo(wanted)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise WrongInputs(f"input {spec.name!r} is {spec.dtype}; got numbers beyond {limits.min} to {limits.max}")
    return tensor.to(wanted)


def _is_finite(tensor: torch.Tensor) -> bool:
    numbers = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return bool(np.isfinite(numbers.numpy()).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _wrong_shapes(item: Mapping[str, torch.Tensor], specs: Sequence[InputSpec]) -> WrongShape:
    wanted = ", ".join(f"{spec.name} {describe(spec.shape)}" for spec in specs[:_MAX_TOLD])
    got = ", ".join(f"{spec.name} {list(item[spec.name].shape)}" for spec in specs[:_MAX_TOLD])
    return WrongShape(f"an item has the shapes {wanted}, alone or N of each in front; got {got}")
