"""What all readers of tensors check: how many numbers, dimensions and lists a body may hold.

Everything is checked against what a body's header declares, before anything of that size is built.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

from smartbatch_worker.contract.inputs import InputSpec, describe_inputs
from smartbatch_worker.errors import BodyTooLarge, MalformedBody, WrongInputs
from smartbatch_worker.kernels import json_numbers

MAX_DIMS = json_numbers.MAX_DIMS
MAX_SIZE = 2**60 - 1  # numbers of 8 bytes an array can have, its dimensions of 0 left out; NumPy's own limit
MAX_LISTS = 2**20  # each costs a Python object: a few bytes of body must not become gigabytes


def check_bytes(actual: int, declared: int, shape: Sequence[int]) -> None:
    """Refuse a body whose data is not as long as its header declares, or whose header declares what no array can be."""
    # An empty array may say any sizes beside its 0, and be larger than arrays can be all the same.
    if math.prod(size for size in shape if size) > MAX_SIZE:
        raise MalformedBody(f"the header declares shape {list(shape)}, beyond what any array can have")
    if actual != declared:
        raise MalformedBody(f"the header declares shape {shape} = {declared} bytes of data; the body has {actual}")


def check_num_lists(shape: list[int]) -> None:
    """Refuse more than MAX_LISTS lists at one level, before they are objects."""
    if math.prod(shape) > MAX_LISTS:
        raise BodyTooLarge(f'"data" has {math.prod(shape)} lists at one level; at most {MAX_LISTS}: send .npy instead')


def check_count(count: int, max_elements: int) -> None:
    """Refuse more numbers than max_elements, before they are read."""
    if count > max_elements:
        raise BodyTooLarge(f"the tensor has {count} numbers; at most {max_elements} are accepted (max_elements)")


def check_num_items(count: int, max_items: int) -> None:
    """Refuse more items than max_items in one request."""
    if count > max_items:
        raise BodyTooLarge(f"the request has {count} items; at most {max_items} are accepted (max_items)")


def check_names(given: Collection[str], specs: Sequence[InputSpec]) -> None:
    """Refuse an item that lacks an input of the model, or has one that the model does not."""
    names = [spec.name for spec in specs]
    if missing := [name for name in names if name not in given]:
        raise WrongInputs(f"input {missing[0]!r} is missing; the model takes {describe_inputs(specs)}")
    if unknown := [name for name in given if name not in names]:
        raise WrongInputs(f"there is no input {unknown[0][:40]!r}; the model takes {describe_inputs(specs)}")


def to_float32(tensor: torch.Tensor) -> torch.Tensor:
    """As the model is given it; uint8, which may be pixels, stays."""
    return tensor if tensor.dtype == torch.uint8 else tensor.to(torch.float32)


def first_line(error: BaseException) -> str:
    """Of a library's error, what fits into a message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
