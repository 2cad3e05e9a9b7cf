"""Tensor bodies: JSON, msgpack, .npy and safetensors to one array each, without Python objects per number."""

from __future__ import annotations

import functools
import itertools
import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
import simdjson
import torch

from smartbatch_worker.errors import BodyTooLarge, MalformedBody, WrongShape
from smartbatch_worker.formats import json_errors, msgpack_numbers
from smartbatch_worker.kernels import json_numbers

MAX_DIMS = json_numbers.MAX_DIMS
MAX_SIZE = 2**60 - 1  # numbers of 8 bytes an array can have, its dimensions of 0 left out; NumPy's own limit
MAX_LISTS = 2**20  # each costs a Python object: a few bytes of body must not become gigabytes
MAX_NPY_HEADER_BYTES = 10_000
MAX_SAFETENSORS_HEADER_BYTES = 2**20
_SIMDJSON_MAX_LENGTH = 2**24 - 1  # it counts a list's entries up to here
_NPY_FIELD = re.compile(
    r"""\s* (['"]) (?: descr \1 \s*:\s* (['"]) (?P<descr> [<>|=]? [A-Za-z] \d{0,4} ) \2
                 | fortran_order \1 \s*:\s* (?P<fortran_order> True | False )
                 | shape \1 \s*:\s* \( (?P<shape> (?: (?: \s* \d{1,19} \s* , )+ (?: \s* \d{1,19} )? )? ) \s* \)
                 ) \s* (?: , | $ )""",
    re.ASCII | re.VERBOSE,
)
_NUMERIC_KINDS = "fiu"  # floats, signed and unsigned integers; objects, strings, times and complex are refused
_SAFETENSORS_DTYPES = {
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


def from_json(body: bytes | bytearray, max_elements: int) -> torch.Tensor:
    """Read `{"data": nested lists of numbers}` into float32.

    The usual body is read by json_numbers. Of any other simdjson writes the numbers of a nested array straight into one
    buffer; only the list lengths above the innermost level are walked in Python, to refuse ragged lists.

    Raises:
        MalformedBody: not JSON, no "data", ragged lists, or anything but numbers inside.
        BodyTooLarge: more than `max_elements` numbers, or MAX_LISTS lists.
    """
    if (tensor := json_numbers.read(body, max_elements, MAX_LISTS)) is not None:
        return tensor
    body, document = _parsed_json(body)
    if not isinstance(document, simdjson.Object):
        raise MalformedBody('the JSON body must be an object {"data": [...]}')
    num_found = _num_keys_named_data(body, document)
    if num_found == 0:
        raise MalformedBody('the JSON body has no "data"; send {"data": [...]} with nested lists of numbers')
    if num_found > 1:
        raise MalformedBody(f'the JSON body has {num_found} keys named "data"; send one')
    data = document["data"]
    if not isinstance(data, simdjson.Array):
        raise MalformedBody(f'"data" must be a nested list of numbers; got {_json_kind(data)}')
    shape = _json_shape(data, max_elements)
    try:
        numbers = np.frombuffer(data.as_buffer(of_type="d"), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise MalformedBody(f'"data" must hold numbers only{_no_number(data, len(shape))}') from None
    if shape[-1] == _SIMDJSON_MAX_LENGTH and len(shape) == 1:
        shape = (numbers.size,)
    _check_count(numbers.size, max_elements)
    if numbers.size != math.prod(shape):
        raise MalformedBody(_ragged(shape))
    # as_buffer flattens, so [1, [2]] would pass for two numbers. The bracket count tells that no list hides among the
    # numbers; only a body with other brackets in it is walked.
    if _count(body, b"[") != _num_lists(shape):
        if numbers.size > MAX_LISTS:
            raise MalformedBody('with more than a million numbers, nothing but the lists of "data" may hold a "["')
        if _holds_lists(data, len(shape)):
            raise MalformedBody('"data" mixes numbers and lists at one level')
    with np.errstate(over="ignore"):
        return torch.from_numpy(numbers.astype(np.float32)).reshape(shape)


def _count(body: bytes | bytearray, byte: bytes) -> int:
    """As `body.count(byte)`, three times as fast; a piece at a time, so that it needs no memory to speak of."""
    text = np.frombuffer(body, dtype=np.uint8)
    return sum(int(np.count_nonzero(text[at : at + 2**16] == byte[0])) for at in range(0, text.size, 2**16))


def _num_lists(shape: tuple[int, ...]) -> int:
    return sum(math.prod(shape[:level]) for level in range(len(shape)))


def _holds_lists(data: Any, depth: int) -> bool:
    """Whether any entry of the innermost level is a list."""
    if depth == 1:
        return any(isinstance(entry, simdjson.Array) for entry in data)
    return any(_holds_lists(child, depth - 1) for child in data)


def _json_shape(data: Any, max_elements: int) -> tuple[int, ...]:
    """Lengths per level, e.g. [3, H, W]; walks every list above the innermost level, none before it is counted."""
    shape: list[int] = []
    level = [data]
    while True:
        length = len(level[0])
        if any(len(entry) != length for entry in level):
            raise MalformedBody(_ragged((*shape, length)))
        shape.append(length)
        _check_count(math.prod(shape), max_elements)
        if length == 0 or not isinstance(level[0][0], simdjson.Array):
            return tuple(shape)
        if len(shape) == MAX_DIMS:
            raise MalformedBody(f'"data" is nested deeper than {MAX_DIMS} levels')
        _check_num_lists(shape)
        children = [child for entry in level for child in entry]
        if not all(isinstance(child, simdjson.Array) for child in children):
            raise MalformedBody('"data" mixes numbers and lists at one level')
        level = children


def _parsed_json(body: bytes | bytearray) -> tuple[bytes | bytearray, Any]:
    """The text and its document: numbers that simdjson refuses are rewritten in the text, and it is asked again."""
    try:
        # A parser owns its documents' memory and refuses reuse while one is alive, so each body gets its own.
        return body, simdjson.Parser().parse(body)
    except (ValueError, RuntimeError, UnicodeDecodeError) as error:
        rewritten = json_errors.with_doubles(body, error)
        if rewritten is None:
            raise MalformedBody(f"the body is not valid JSON: {json_errors.explain(body, error)}") from None
    try:
        return rewritten, simdjson.Parser().parse(rewritten)
    except (ValueError, RuntimeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid JSON: {json_errors.explain(body, error)}") from None


def _num_keys_named_data(body: bytes | bytearray, document: Any) -> int:
    # simdjson gives the first of two keys, where every other reader gives the last: so two are refused. The usual body
    # is not walked; a backslash could spell the name another way.
    if body.count(b'"data"') == 1 and b"\\" not in body:
        return int("data" in document)
    return sum(key == "data" for key in document)


def _no_number(data: Any, depth: int) -> str:
    """What stands at the innermost level and is no number, for a message; "" where it comes too late to look for."""
    for entry in itertools.islice(_entries(data, depth), MAX_LISTS):
        if isinstance(entry, bool) or not isinstance(entry, (int, float)):
            return f"; it holds {_json_kind(entry)}"
    return ""


def _entries(data: Any, depth: int) -> Iterator[Any]:
    if depth == 1:
        yield from data
    else:
        for child in data:
            yield from _entries(child, depth - 1)


def _json_kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {"bool": "true or false", "str": "text", "Object": "an object", "Array": "a list among numbers"}
    return kinds.get(type(value).__name__, "a number")


def _ragged(shape: tuple[int, ...]) -> str:
    return f'"data" is ragged: its first lists say {list(shape)}, and not all lists at a level are equally long'


class _Document(msgspec.Struct):
    data: msgspec.Raw
    shape: Any = None
    dtype: Any = "float32"


_DOCUMENTS = msgspec.msgpack.Decoder(_Document)
_CHILDREN = msgspec.msgpack.Decoder(list[msgspec.Raw])
_BYTES = msgspec.msgpack.Decoder(bytes)
_MSGPACK_BYTES = (0xC4, 0xC5, 0xC6)


def from_msgpack(body: bytes | bytearray, max_elements: int) -> torch.Tensor:
    """Read `{"data": nested lists}` in msgpack into float32.

    `{"data": bytes, "shape": [...], "dtype": "float32" | "uint8"}` is taken without a copy per number. Lists are
    decoded one innermost list at a time, and long ones by and by (msgpack_numbers), after their headers were checked: a
    byte of body would else become a Python object of 32 to 64.
    """
    try:
        document = _DOCUMENTS.decode(body)
    except msgspec.ValidationError as error:
        raise MalformedBody(f'the msgpack body must be a map with "data": {_first_line(error)}') from None
    except (msgspec.DecodeError, RecursionError, MemoryError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid msgpack: {_first_line(error)}") from None
    data = memoryview(document.data)
    if data[0] in _MSGPACK_BYTES:
        return _from_raw(_BYTES.decode(data), document.shape, document.dtype, max_elements)
    shape = _msgpack_shape(data, max_elements)
    array = np.empty(shape, dtype=np.float32)
    try:
        with np.errstate(over="ignore"):
            _fill(array, data)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise MalformedBody(f'"data" must be nested lists of numbers, equally long: {_first_line(error)}') from None
    return torch.from_numpy(array)


def _msgpack_shape(data: memoryview, max_elements: int) -> tuple[int, ...]:
    """Lengths per level, from the headers of the first list of each."""
    shape: list[int] = []
    while (header := _array_header(data)) is not None:
        if len(shape) == MAX_DIMS:
            raise MalformedBody(f'"data" is nested deeper than {MAX_DIMS} levels')
        if shape:
            _check_num_lists(shape)
        length, header_bytes = header
        shape.append(length)
        _check_count(math.prod(shape), max_elements)
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
    _check_bytes(len(data), math.prod(shape) * (4 if dtype == "float32" else 1), shape)
    _check_count(math.prod(shape), max_elements)
    if not data:
        return torch.empty(shape)
    return _float32(torch.from_numpy(np.frombuffer(bytearray(data), dtype=str(dtype))).reshape(shape))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def from_npy(body: bytes | bytearray, max_elements: int) -> torch.Tensor:
    """Read a NumPy .npy file; uint8 stays uint8, every other numeric type becomes float32.

    Source: the format's description in numpy.lib.format. Objects (pickle) are never loaded.
    """
    shape, fortran_order, dtype, offset = _npy_header(body)
    if dtype.kind not in _NUMERIC_KINDS or dtype.itemsize > 8:
        raise MalformedBody(f".npy arrays must hold numbers of at most 8 bytes; got dtype {dtype}")
    if len(shape) > MAX_DIMS:
        raise MalformedBody(f".npy arrays take at most {MAX_DIMS} dimensions; got {len(shape)}")
    _check_bytes(len(body) - offset, math.prod(shape) * dtype.itemsize, shape)
    _check_count(math.prod(shape), max_elements)
    if math.prod(shape) == 0:
        return torch.empty(shape)
    array = np.frombuffer(body, dtype=dtype, offset=offset).reshape(shape, order="F" if fortran_order else "C")
    if dtype == np.uint8:
        return torch.from_numpy(_writable(array))
    with np.errstate(over="ignore"):
        return _float32(torch.from_numpy(_writable(array.astype(np.float32, copy=False))))


def _npy_header(body: bytes | bytearray) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, Fortran order, dtype, offset of the data).

    The header is a Python dictionary as NumPy writes it, but no Python reads it: bodies are decoded in several threads,
    and `ast.literal_eval` of Python 3.11 now and then fails when two of them call it (CPython issue 106905). What
    Python 2 wrote, and NumPy's own reader repairs, is refused.
    """
    version = bytes(body[6:8])
    length_format, start = ("<H", 10) if version == b"\x01\x00" else ("<I", 12)
    if version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00") or len(body) < start:
        raise MalformedBody("the .npy header is cut off, or of a version that does not exist")
    (length,) = struct.unpack_from(length_format, body, start - struct.calcsize(length_format))
    if length > MAX_NPY_HEADER_BYTES or len(body) < start + length:
        raise MalformedBody(f"the .npy header is cut off, or longer than {MAX_NPY_HEADER_BYTES} bytes")
    return *_npy_meaning(bytes(body[start : start + length])), start + length


@functools.lru_cache(maxsize=64)
def _npy_meaning(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype; kept, since a client's requests mostly have one header."""
    fields = _npy_fields(header.decode("ascii", "replace").strip())
    try:
        dtype = np.dtype(fields["descr"])
    except TypeError as error:
        raise MalformedBody(f"the .npy header is malformed: {_first_line(error)}") from None
    shape = tuple(int(size) for size in fields["shape"].split(",") if size.strip())
    return shape, fields["fortran_order"] == "True", dtype


def _npy_fields(text: str) -> dict[str, str]:
    """The texts of `descr`, `fortran_order` and `shape`, which may come in any order."""
    fields = {}
    at, end = 1, len(text) - 1
    while field := _NPY_FIELD.match(text, at, end):
        at = field.end()
        fields[field.lastgroup or ""] = field[field.lastgroup or ""]
    if not text.startswith("{") or not text.endswith("}") or text[at:end].strip() or len(fields) != 3:
        raise MalformedBody(
            "the .npy header is malformed: it must hold 'descr', 'fortran_order' and 'shape', a tuple of sizes, alone"
        )
    return fields


def _writable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Bodies come as bytearrays (writable, no copy); bytes, from tests and direct callers, are copied.
    return array if array.flags.writeable else array.copy()


def from_safetensors(body: bytes | bytearray, max_elements: int) -> torch.Tensor:
    """Read the tensor named `data`; uint8 stays uint8, every other numeric type becomes float32.

    Source: the format's description (8 bytes of header length, a JSON header, the bytes of all tensors). Only the
    tensor wanted is copied; the library would make objects of every tensor a client chose to declare.
    """
    entry, start = _safetensors_entry(body)
    dtype = _SAFETENSORS_DTYPES.get(entry.dtype)
    if dtype is None:
        accepted = ", ".join(sorted(_SAFETENSORS_DTYPES))
        raise MalformedBody(f'tensor "data" has dtype {entry.dtype[:16]!r}; accepted are {accepted}')
    shape = entry.shape
    if len(shape) > MAX_DIMS:
        raise MalformedBody(f"tensors take at most {MAX_DIMS} dimensions; got {len(shape)}")
    first, last = (start + offset for offset in entry.data_offsets)
    _check_bytes(last - first, math.prod(shape) * dtype.itemsize, shape)
    _check_count(math.prod(shape), max_elements)
    if math.prod(shape) == 0:
        return torch.empty(shape)
    tensor = torch.frombuffer(bytearray(body[first:last]), dtype=dtype).reshape(shape)
    return tensor if dtype == torch.uint8 else _float32(tensor)


class _TensorEntry(msgspec.Struct):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


def _safetensors_entry(body: bytes | bytearray) -> tuple[_TensorEntry, int]:
    """What the header says of the tensor named `data`, and where the tensors' bytes start."""
    length = struct.unpack_from("<Q", body)[0] if len(body) >= 8 else 0
    if not 2 <= length <= min(MAX_SAFETENSORS_HEADER_BYTES, len(body) - 8):
        raise MalformedBody(
            "the body is not valid safetensors: its header is cut off or longer than "
            f"{MAX_SAFETENSORS_HEADER_BYTES} bytes"
        )
    try:
        header = msgspec.json.decode(memoryview(body)[8 : 8 + length], type=dict[str, msgspec.Raw])
        entries = {
            name: msgspec.json.decode(entry, type=_TensorEntry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid safetensors: {_first_line(error)}") from None
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


def to_json(value: object) -> bytes:
    """Encode an answer; NumPy arrays are written natively, without a Python object per number."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def require_finite(tensor: torch.Tensor) -> None:
    """Refuse NaN and infinity (also numbers that overflow float32)."""
    # NumPy, not torch: a few hundred kB are not worth waking torch's thread pool for.
    if tensor.is_floating_point() and not np.isfinite(tensor.numpy()).all():
        raise WrongShape("the tensor holds NaN, infinity or numbers beyond float32; send finite numbers")


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.uint8 else tensor.to(torch.float32)


def _check_bytes(actual: int, declared: int, shape: Sequence[int]) -> None:
    # An empty array may say any sizes beside its 0, and be larger than arrays can be all the same.
    if math.prod(size for size in shape if size) > MAX_SIZE:
        raise MalformedBody(f"the header declares shape {list(shape)}, beyond what any array can have")
    if actual != declared:
        raise MalformedBody(f"the header declares shape {shape} = {declared} bytes of data; the body has {actual}")


def _check_num_lists(shape: list[int]) -> None:
    if math.prod(shape) > MAX_LISTS:
        raise BodyTooLarge(f'"data" has {math.prod(shape)} lists at one level; at most {MAX_LISTS}: send .npy instead')


def _check_count(count: int, max_elements: int) -> None:
    if count > max_elements:
        raise BodyTooLarge(f"the tensor has {count} numbers; at most {max_elements} are accepted (max_elements)")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
