"""safetensors bodies, the tensor `data` or named inputs; the library reads none of them, and has the plain name."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats.limits import MAX_DIMS, check_bytes, check_count, check_names, first_line, to_float32

MAX_HEADER_BYTES = 2**20
_NUMERIC = {
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
_DTYPES = {**_NUMERIC, "BOOL": torch.bool}


def read(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """Read the tensor named `data`; uint8 stays uint8, every other numeric type becomes float32.

    Source: the format's description (8 bytes of header length, a JSON header, the bytes of all tensors). Only the
    tensor wanted is copied; the library would make objects of every tensor a client chose to declare.
    """
    entries, start = _entries(body)
    if "data" not in entries:
        raise MalformedBody(f'safetensors bodies need a tensor named "data"; got {sorted(n[:40] for n in entries)[:8]}')
    tensor = _tensor(body, "data", entries["data"], start, _NUMERIC, config.max_elements)
    return tensor if tensor.dtype == torch.uint8 else to_float32(tensor)


def read_named(body: bytes | bytearray, config: WorkerConfig) -> dict[str, torch.Tensor]:
    """Read the tensors that the model's inputs name, as they are."""
    entries, start = _entries(body)
    specs = config.inputs or ()
    if len(specs) == 1 and list(entries) == ["data"]:
        entries = {specs[0].name: entries["data"]}
    check_names(entries, specs)
    check_count(sum(math.prod(entry.shape) for entry in entries.values()), config.max_elements)
    return {name: _tensor(body, name, entry, start, _DTYPES, config.max_elements) for name, entry in entries.items()}


def _tensor(
    body: bytes | bytearray,
    name: str,
    entry: _TensorEntry,
    start: int,
    accepted: Mapping[str, torch.dtype],
    max_elements: int,
) -> torch.Tensor:
    dtype = accepted.get(entry.dtype)
    if dtype is None:
        told = ", ".join(sorted(accepted))
        raise MalformedBody(f'tensor "{name}" has dtype {entry.dtype[:16]!r}; accepted are {told}')
    shape = entry.shape
    if len(shape) > MAX_DIMS:
        raise MalformedBody(f"tensors take at most {MAX_DIMS} dimensions; got {len(shape)}")
    first, last = (start + offset for offset in entry.data_offsets)
    check_bytes(last - first, math.prod(shape) * dtype.itemsize, shape)
    check_count(math.prod(shape), max_elements)
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(body[first:last]), dtype=dtype).reshape(shape)


class _TensorEntry(msgspec.Struct):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


def _entries(body: bytes | bytearray) -> tuple[dict[str, _TensorEntry], int]:
    """What the header says of each tensor, and where the tensors' bytes start."""
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
    _check_offsets([entry.data_offsets for entry in entries.values()], len(body) - 8 - length)
    return entries, 8 + length


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
