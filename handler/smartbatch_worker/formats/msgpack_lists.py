"""msgpack bodies, `{"data": nested lists}` or raw bytes beside their shape, to one tensor."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats import msgpack_numbers
from smartbatch_worker.formats.limits import (
    MAX_DIMS,
    check_bytes,
    check_count,
    check_num_lists,
    first_line,
    to_float32,
)


class _Document(msgspec.Struct):
    data: msgspec.Raw
    shape: Any = None
    dtype: Any = "float32"


_DOCUMENTS = msgspec.msgpack.Decoder(_Document)
_CHILDREN = msgspec.msgpack.Decoder(list[msgspec.Raw])
_BYTES = msgspec.msgpack.Decoder(bytes)
_BYTES_HEADERS = (0xC4, 0xC5, 0xC6)


def read(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """Read `{"data": nested lists}` in msgpack into float32.

    `{"data": bytes, "shape": [...], "dtype": "float32" | "uint8"}` is taken without a copy per number. Lists are
    decoded one innermost list at a time, and long ones by and by (msgpack_numbers), after their headers were checked: a
    byte of body would else become a Python object of 32 to 64.
    """
    try:
        document = _DOCUMENTS.decode(body)
    except msgspec.ValidationError as error:
        raise MalformedBody(f'the msgpack body must be a map with "data": {first_line(error)}') from None
    except (msgspec.DecodeError, RecursionError, MemoryError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid msgpack: {first_line(error)}") from None
    data = memoryview(document.data)
    if data[0] in _BYTES_HEADERS:
        return _from_raw(_BYTES.decode(data), document.shape, document.dtype, config.max_elements)
    shape = _shape(data, config.max_elements)
    array = np.empty(shape, dtype=np.float32)
    try:
        with np.errstate(over="ignore"):
            _fill(array, data)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise MalformedBody(f'"data" must be nested lists of numbers, equally long: {first_line(error)}') from None
    return torch.from_numpy(array)


def _shape(data: memoryview, max_elements: int) -> tuple[int, ...]:
    """Lengths per level, from the headers of the first list of each."""
    shape: list[int] = []
    while (header := _array_header(data)) is not None:
        if len(shape) == MAX_DIMS:
            raise MalformedBody(f'"data" is nested deeper than {MAX_DIMS} levels')
        if shape:
            check_num_lists(shape)
        length, header_bytes = header
        shape.append(length)
        check_count(math.prod(shape), max_elements)
        data = data[header_bytes:]
        if length == 0:
            break
    if not shape:
        raise MalformedBody('"data" must be nested lists of numbers, or bytes beside "shape"')
    return tuple(shape)


def _array_header(data: memoryview) -> tuple[int, int] | None:
    """(length, bytes of the header) of a msgpack array; None for anything else."""
    first = data[0]
    if 0x90 <= first <= 0x9F:
        return first & 0x0F, 1
    if first == 0xDC:
        return struct.unpack_from(">H", data, 1)[0], 3
    if first == 0xDD:
        return struct.unpack_from(">I", data, 1)[0], 5
    return None


def _fill(array: np.ndarray[Any, Any], data: memoryview) -> None:
    header = _array_header(data)
    if header is None or header[0] != len(array):
        found = "something else" if header is None else f"one of {header[0]}"
        raise ValueError(f"a list of {len(array)} was expected, {found} found")
    if array.ndim == 1:
        msgpack_numbers.fill(array, data, header[1])
    else:
        for target, child in zip(array, _CHILDREN.decode(data), strict=True):
            _fill(target, memoryview(child))


def _from_raw(data: bytes, shape: object, dtype: object, max_elements: int) -> torch.Tensor:
    if dtype not in ("float32", "uint8"):
        raise MalformedBody(f'"dtype" must be float32 or uint8; got {str(dtype)[:40]!r}')
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(_is_size(d) for d in shape):
        raise MalformedBody(f'"shape" must be a list of at most {MAX_DIMS} sizes beside the bytes of "data"')
    check_bytes(len(data), math.prod(shape) * (4 if dtype == "float32" else 1), shape)
    check_count(math.prod(shape), max_elements)
    if not data:
        return torch.empty(shape)
    return to_float32(torch.from_numpy(np.frombuffer(bytearray(data), dtype=str(dtype))).reshape(shape))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
