"""What the Open Inference Protocol tells clients about a model: names, datatypes and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from smartbatch_worker.contract.inputs import InputSpec
from smartbatch_worker.contract.open_inference import DATATYPES, FREE, INPUT, OUTPUT

Tensors = list[dict[str, Any]]


def inputs_of(shape: Sequence[int | None] | None) -> Tensors:
    """The one input of a model whose items have `shape`; none where not even the number of dimensions is known."""
    if shape is None:
        return []
    return [{"name": INPUT, "datatype": "FP32", "shape": [FREE, *(FREE if size is None else size for size in shape)]}]


def named_inputs_of(specs: Sequence[InputSpec]) -> Tensors:
    """The inputs of a model that names them."""
    return [
        {
            "name": spec.name,
            "datatype": DATATYPES[f"torch.{spec.dtype}"],
            "shape": [FREE, *(size if isinstance(size, int) else FREE for size in spec.shape)],
        }
        for spec in specs
    ]


def outputs_of(answer: Any, other: Any, are_lists: bool = False) -> Tensors:
    """The outputs of a model, told by two items' answers.

    Args:
        answer: of one item, as cut from a forward's output.
        other: of an item of another size, where the model takes such; sizes that differ are free.
        are_lists: each answer is what was found in an item, as many as there are: the first size is free.

    Returns:
        None of them where one is no tensor: texts, detections, parts within parts, complex numbers.
    """
    first, second = _named(answer), _named(other)
    if not first or not second or first.keys() != second.keys():
        return []
    return [
        {"name": name, "datatype": DATATYPES[str(tensor.dtype)], "shape": _shape(tensor, second[name], are_lists)}
        for name, tensor in first.items()
    ]


def _named(answer: Any) -> dict[str, torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        named: dict[str, Any] = {OUTPUT: answer}
    elif isinstance(answer, Mapping):
        named = {str(key): value for key, value in answer.items()}
    elif isinstance(answer, list):
        named = {f"{OUTPUT}_{index}": value for index, value in enumerate(answer)}
    else:
        return {}
    is_told = all(isinstance(value, torch.Tensor) and str(value.dtype) in DATATYPES for value in named.values())
    return named if is_told else {}


def _shape(tensor: torch.Tensor, other: torch.Tensor, is_list: bool) -> list[int]:
    """With the batch in front."""
    if tensor.ndim != other.ndim:
        return [FREE] * (1 + tensor.ndim)
    sizes = [size if size == its else FREE for size, its in zip(tensor.shape, other.shape, strict=True)]
    return [FREE, *([FREE, *sizes[1:]] if is_list and sizes else sizes)]
