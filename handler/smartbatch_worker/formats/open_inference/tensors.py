"""Tensors of the Open Inference Protocol, in JSON or as bytes, to torch's; binary ones stay where they are if they can.

Numbers arrive as what their datatype says: no integer is read by way of a float, and one that does not fit is refused.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import simdjson
import torch

from smartbatch_worker.contract.open_inference import DATATYPES
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats import json_lists
from smartbatch_worker.formats.json_inputs import booleans
from smartbatch_worker.formats.limits import MAX_LISTS, MAX_SIZE, check_bytes

DTYPES = {name: getattr(torch, key.removeprefix("torch.")) for key, name in DATATYPES.items()}
"""torch's, by the protocol's name."""

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Given:
    """One input, as the JSON tells of it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    """Its list, as simdjson has it; None of a binary one."""
    size: int
    """Bytes of a binary one; -1 of others."""
    start: int
    """Where these begin."""

    @property
    def count(self) -> int:
        """Numbers, or texts."""
        return math.prod(self.shape)

    @property
    def told(self) -> str:
        """What it is, for messages."""
        return f"input {self.name[:40]!r}"


class Numbers:
    """Reads the tensors of one request.

    Args:
        text: its JSON.
        max_elements: most numbers in it.
    """

    def __init__(self, text: bytes | bytearray, max_elements: int) -> None:
        self._text = text
        self._max_elements = max_elements
        self._lists: list[tuple[Given, int]] = []
        """Of those in JSON, at how many levels their lists are nested."""

    def tensor(self, given: Given, body: bytes | bytearray) -> torch.Tensor:
        """One input of numbers, of the shape and the type that it says.

        Raises:
            MalformedBody: there are not as many, or they are none of this type.
        """
        # Of an empty tensor any sizes may be told beside its 0; no array has more than MAX_SIZE.
        if math.prod(size for size in given.shape if size) > MAX_SIZE:
            raise MalformedBody(f"{given.told} has shape {list(given.shape)}, beyond what any array can have")
        return _binary(given, body) if given.data is None else self._listed(given)

    def check_lists(self, num_others: int) -> None:
        """Refuse lists among the numbers: reading flattens, so [1, [2]] would pass for two numbers.

        Args:
            num_others: lists of the JSON that hold no numbers; as many as there are then, and nothing need be walked.
        """
        if not self._lists:
            return
        in_data = sum(json_lists.num_lists(given.shape) if depth > 1 else 1 for given, depth in self._lists)
        if json_lists.count(self._text, b"[") == in_data + num_others:
            return
        for given, depth in self._lists:
            if given.count > MAX_LISTS:
                raise MalformedBody(
                    f'with more than a million numbers, nothing but lists of {given.told} may hold a "["'
                )
            if json_lists.holds_lists(given.data, depth):
                raise MalformedBody(f"{given.told} mixes numbers and lists at one level")

    def _listed(self, given: Given) -> torch.Tensor:
        """Of a list of all numbers, or of lists nested as the shape says."""
        data, dtype = given.data, DTYPES[given.datatype]
        if not isinstance(data, simdjson.Array):
            raise MalformedBody(f"{given.told}: data must be a list; got {json_lists.kind(data)}")
        depth = 1
        if len(data) and isinstance(data[0], simdjson.Array):
            nested = json_lists.shape_of(data, self._max_elements, given.told)
            if nested != given.shape:
                raise MalformedBody(f"{given.told} says shape {list(given.shape)}; its lists are {list(nested)}")
            depth = len(nested)
        self._lists.append((given, depth))
        numbers = _numbers(data, depth, given, dtype)
        if numbers.size != given.count:
            raise MalformedBody(
                f"{given.told} says shape {list(given.shape)}, {given.count} numbers; got {numbers.size}"
            )
        tensor = torch.from_numpy(numbers if numbers.flags.writeable else numbers.copy())
        return tensor.reshape(given.shape).to(dtype)


def texts(given: Given, body: bytes | bytearray) -> list[str]:
    """The texts of a BYTES input, in order.

    Raises:
        MalformedBody: there are not as many as its shape says, or they are no UTF-8.
    """
    found: list[str] = []
    if given.data is not None:
        entries = given.data if isinstance(given.data, simdjson.Array) and len(given.data) <= given.count else ()
        for entry in entries:
            found += [
                text for text in (entry if isinstance(entry, simdjson.Array) else [entry]) if isinstance(text, str)
            ]
        if len(found) != given.count:
            raise MalformedBody(f"{given.told}: data must be a list of {given.count} texts")
        return found
    view, at, end = memoryview(body), given.start, given.start + given.size
    while at + _LENGTH.size <= end and len(found) < given.count:
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        if length > end - at:
            break
        try:
            found.append(str(view[at : at + length], "utf-8"))
        except UnicodeDecodeError as error:
            told = f"text {len(found)} breaks its rules at byte {error.start}"
            raise MalformedBody(f"{given.told} must be UTF-8; its {told}") from None
        at += length
    if at != end or len(found) != given.count:
        raise MalformedBody(f"{given.told} must be {given.count} texts, each behind its length in 4 bytes")
    return found


def _binary(given: Given, body: bytes | bytearray) -> torch.Tensor:
    dtype = DTYPES[given.datatype]
    check_bytes(given.size, given.count * dtype.itemsize, given.shape)
    if given.count == 0:
        return torch.empty(given.shape, dtype=dtype)
    is_boolean = dtype == torch.bool
    if isinstance(body, bytearray) and not is_boolean:
        tensor = torch.frombuffer(body, dtype=dtype, count=given.count, offset=given.start)
        if tensor.data_ptr() % dtype.itemsize == 0:
            return tensor.reshape(given.shape)
    # Where the JSON has a length that leaves them at an odd address (or the body cannot be written to): copied once,
    # since compiled code may rely on numbers to be where numbers are.
    raw = np.frombuffer(body, dtype=np.uint8, count=given.size, offset=given.start).copy()
    if is_boolean and int(raw.max()) > 1:
        raise MalformedBody(f"{given.told} is BOOL, whose bytes are 0 or 1; got {int(raw.max())}")
    return torch.from_numpy(raw).view(dtype).reshape(given.shape)


def _numbers(data: Any, depth: int, given: Given, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    if dtype == torch.bool:
        return booleans(data, depth, given.told)
    if dtype.is_floating_point:
        of_type, wide = "d", "=f8"
    else:
        of_type, wide = ("u", "=u8") if given.datatype == "UINT64" else ("i", "=i8")
    try:
        numbers: np.ndarray[Any, Any] = np.frombuffer(data.as_buffer(of_type=of_type), dtype=wide)
    except (TypeError, ValueError, RuntimeError):
        wanted = "numbers" if of_type == "d" else "whole numbers"
        raise MalformedBody(f"{given.told} must hold {wanted} only: it is {given.datatype}") from None
    if of_type == "i" and numbers.size:
        limits = torch.iinfo(dtype)
        if int(numbers.min()) < limits.min or int(numbers.max()) > limits.max:
            raise MalformedBody(f"{given.told} is {given.datatype}; got numbers beyond {limits.min} to {limits.max}")
    return numbers
