"""safetensors bodies: the tensor named `data`, read without the library, which this file is named not to hide."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Annotated

import msgspec
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats.limits import MAX_DIMS, check_bytes, check_count, first_line, to_float32

MAX_HEADER_BYTES = 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def read(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """Read the tensor named `data`; uint8 stays uint8, every other numeric type becomes float32.

    Source: the format's description (8 bytes of header length, a JSON header, the bytes of all tensors). Only the
    tensor wanted is copied; the library would make objects of every tensor a client chose to declare.
    """
    entry, start = _data_entry(body)
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        accepted = ", ".join(sorted(_DTYPES))
        raise MalformedBody(f'tensor "data" has dtype {entry.dtype[:16]!r}; accepted are {accepted}')
    shape = entry.shape
    if len(shape) > MAX_DIMS:
        raise MalformedBody(f"tensors take at most {MAX_DIMS} dimensions; got {len(shape)}")
    first, last = (start + offset for offset in entry.data_offsets)
    check_bytes(last - first, math.prod(shape) * dtype.itemsize, shape)
    check_count(math.prod(shape), config.max_elements)
    if math.prod(shape) == 0:
        return torch.empty(shape)
    tensor = torch.frombuffer(bytearray(body[first:last]), dtype=dtype).reshape(shape)
    return tensor if dtype == torch.uint8 else to_float32(tensor)


class _TensorEntry(msgspec.Struct):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


def _data_entry(body: bytes | bytearray) -> tuple[_TensorEntry, int]:
    """What the header says of the tensor named `data`, and where the tensors' bytes start."""
    length = struct.unpack_from("<Q", body)[0] if len(body) >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(body) - 8):
        raise MalformedBody(
            f"the body is not valid safetensors: its header is cut off or longer than {MAX_HEADER_BYTES} bytes"
        )
    try:
        header = msgspec.json.decode(memoryview(body)[8 : 8 + length], type=dict[str, msgspec.Raw])
        entries = {
            name: msgspec.json.decode(entry, type=_TensorEntry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid safetensors: {first_line(error)}") from None
    if "data" not in entries:
        raise MalformedBody(f'safetensors bodies need a tensor named "data"; got {sorted(n[:40] for n in entries)[:8]}')
    _check_offsets([entry.data_offsets for entry in entries.values()], len(body) - 8 - length)
    return entries["data"], 8 + length


def _check_offsets(offsets: Sequence[tuple[int, int]], num_bytes: int) -> None:
    """As the format wants it: the tensors' bytes follow each other without hole or overlap, and nothing else does."""
    end = 0
    for first, last in sorted(offsets):
        if not 0 <= first <= last <= num_bytes:
            raise MalformedBody("the body is not valid safetensors: data_offsets lie outside of the body")
        if first != end:
            found = "overlap" if first < end else "leave a hole"
            raise MalformedBody(
                f"the body is not valid safetensors: the data_offsets of two tensors {found} at byte {first}"
            )
        end = last
    if end != num_bytes:
        raise MalformedBody(f"the body is not valid safetensors: {num_bytes - end} bytes behind its last tensor")
