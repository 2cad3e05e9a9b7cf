"""JSON bodies, `{"data": nested lists of numbers}`, to one float32 tensor, without a Python object per number.

Other servers' clients write `{"instances": [item, …]}` (KServe's protocol v1), and pictures in base64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import simdjson
import torch

from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import MalformedBody, UnknownFormat
from smartbatch_worker.formats import json_errors
from smartbatch_worker.formats.images import base64_files
from smartbatch_worker.formats.limits import MAX_DIMS, MAX_LISTS, check_count, check_num_items, check_num_lists
from smartbatch_worker.kernels import json_numbers

_SIMDJSON_MAX_LENGTH = 2**24 - 1  # it counts a list's entries up to here


INSTANCES = "instances"
_KEYS = ("data", "body")
"""Under which TorchServe's image handlers look for a picture."""


@dataclass(frozen=True, slots=True)
class Items:
    """What a body of another dialect holds: items, each without a batch dimension."""

    items: list[Any]
    """A tensor each, or named ones."""
    is_image: bool
    """All of them were pictures' files."""
    is_instances: bool
    """There may be several, and they are answered as `{"predictions": […]}`."""


def resembles(body: bytes | bytearray) -> bool:
    """Whether it may be JSON, as a body that nothing else says anything of: its first letter is a bracket."""
    return body[:64].lstrip()[:1] in (b"{", b"[")


def read(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """Read `{"data": nested lists of numbers}` into float32.

    The usual body is read by json_numbers. Of any other simdjson writes the numbers of a nested array straight into one
    buffer; only the list lengths above the innermost level are walked in Python, to refuse ragged lists.

    Raises:
        MalformedBody: not JSON, no "data", ragged lists, or anything but numbers inside.
        BodyTooLarge: more than max_elements numbers, or MAX_LISTS lists.
    """
    given = read_items(body, config)
    if isinstance(given, Items):
        raise MalformedBody('the JSON body has no "data" that is a list')
    return given


def read_items(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor | Items:
    """As `read` has it, or what a body of another dialect holds."""
    if (tensor := json_numbers.read(body, config.max_elements, MAX_LISTS)) is not None:
        return tensor
    body, document = parsed(body)
    if not isinstance(document, simdjson.Object):
        raise MalformedBody('the JSON body must be an object {"data": [...]}')
    if (items := _other_dialect(body, document, config)) is not None:
        return items
    num_found = _num_keys_named_data(body, document)
    if num_found == 0:
        check_protocol(document)
        raise MalformedBody('the JSON body has no "data"; send {"data": [...]} with nested lists of numbers')
    if num_found > 1:
        raise MalformedBody(f'the JSON body has {num_found} keys named "data"; send one')
    data = document["data"]
    if not isinstance(data, simdjson.Array):
        raise MalformedBody(f'"data" must be a nested list of numbers; got {kind(data)}')
    array = _Array.of(data, config.max_elements, '"data"')
    _check_lists(body, [array])
    return array.tensor


def _other_dialect(body: bytes | bytearray, document: Any, config: WorkerConfig) -> Items | None:
    """The items of `{"instances": […]}`, or the picture of `{"data": base64}`; None: the body is neither."""
    key = next((key for key in _KEYS if key in document), "")
    is_text = isinstance(document.get(key), str)
    if key == _KEYS[0] and not is_text:
        return None
    found = unique(document, "the JSON body", {INSTANCES, *_KEYS})
    if is_text and config.takes_pictures:
        return Items([base64_files.read(found[key], config, f'"{key}"')], True, False)
    return _instances(body, found[INSTANCES], config) if INSTANCES in found else None


def _instances(body: bytes | bytearray, given: Any, config: WorkerConfig) -> Items:
    if not isinstance(given, simdjson.Array) or len(given) == 0:
        raise MalformedBody(f'"{INSTANCES}" must be a list, one entry an item')
    check_num_items(len(given), config.max_items)
    if not isinstance(given[0], (str, simdjson.Object)):
        array = _Array.of(given, config.max_elements, f'"{INSTANCES}"')
        _check_lists(body, [array])
        return Items(list(array.tensor.unbind(0)), False, True)
    items: list[torch.Tensor] = []
    arrays: list[_Array] = []
    num_left = config.max_elements
    for index, entry in enumerate(given):
        told = f'"{INSTANCES}"[{index}]'
        data = unique(entry, told, base64_files.KEYS).get(_KEYS[0]) if isinstance(entry, simdjson.Object) else entry
        if (text := base64_files.text_in(entry)) is not None:
            if not config.takes_pictures:
                raise UnknownFormat(f"{told} is text, and the model takes no pictures: send lists of numbers")
            items.append(base64_files.read(text, config, told))
        elif isinstance(data, simdjson.Array):
            arrays.append(_Array.of(data, num_left, told))
            items.append(arrays[-1].tensor)
        else:
            raise MalformedBody(f'{told} must be lists of numbers, or {{"b64": a picture\'s bytes}}')
        if len(given) > 1:  # one picture is bounded by max_pixels
            check_count(items[-1].numel(), num_left)
        num_left -= items[-1].numel()
    if arrays:
        _check_lists(body, arrays, num_around=1)
    return Items(items, not arrays, True)


@dataclass(frozen=True, slots=True)
class _Array:
    """Nested lists of a body."""

    tensor: torch.Tensor
    lists: Any
    """As simdjson has them."""
    told: str

    @classmethod
    def of(cls, lists: Any, max_elements: int, told: str) -> _Array:
        """Read them; `_check_lists` is to follow."""
        shape = shape_of(lists, max_elements, told)
        try:
            numbers = np.frombuffer(lists.as_buffer(of_type="d"), dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):
            raise MalformedBody(f"{told} must hold numbers only{_no_number(lists, len(shape))}") from None
        if shape[-1] == _SIMDJSON_MAX_LENGTH and len(shape) == 1:
            shape = (numbers.size,)
        check_count(numbers.size, max_elements)
        if numbers.size != math.prod(shape):
            raise MalformedBody(_ragged(shape, told))
        with np.errstate(over="ignore"):
            return cls(torch.from_numpy(numbers.astype(np.float32)).reshape(shape), lists, told)


def _check_lists(body: bytes | bytearray, arrays: list[_Array], num_around: int = 0) -> None:
    """Refuse lists among numbers: as_buffer flattens, so [1, [2]] would pass for two numbers.

    The bracket count tells that none hides there; only a body with other brackets in it is walked.

    Args:
        body: as it came.
        arrays: all that were read of it.
        num_around: the lists that these stand in.
    """
    if count(body, b"[") == num_around + sum(num_lists(tuple(array.tensor.shape)) for array in arrays):
        return
    if sum(array.tensor.numel() for array in arrays) > MAX_LISTS:
        told = arrays[0].told
        raise MalformedBody(f'with more than a million numbers, nothing but the lists of {told} may hold a "["')
    for array in arrays:
        if holds_lists(array.lists, array.tensor.ndim):
            raise MalformedBody(f"{array.told} mixes numbers and lists at one level")


def check_protocol(document: Any) -> None:
    """Refuse a request of the Open Inference Protocol that came where it is not looked for, and say where it is."""
    given = document.get("inputs")
    first = given[0] if isinstance(given, simdjson.Array) and len(given) else None
    if isinstance(first, simdjson.Object) and "datatype" in first and "shape" in first:
        raise MalformedBody(
            "this is a request of the Open Inference Protocol: POST it to /v2/models/<model>/infer, or with "
            f"Content-Type {media_types.OPEN_INFERENCE}"
        )


def count(body: bytes | bytearray, byte: bytes) -> int:
    """As `body.count(byte)`, three times as fast; a piece at a time, so that it needs no memory to speak of."""
    text = np.frombuffer(body, dtype=np.uint8)
    return sum(int(np.count_nonzero(text[at : at + 2**16] == byte[0])) for at in range(0, text.size, 2**16))


def num_lists(shape: tuple[int, ...]) -> int:
    """How many lists an array of this shape is written in."""
    return sum(math.prod(shape[:level]) for level in range(len(shape)))


def holds_lists(data: Any, depth: int) -> bool:
    """Whether any entry of the innermost level is a list."""
    if depth == 1:
        return any(isinstance(entry, simdjson.Array) for entry in data)
    return any(holds_lists(child, depth - 1) for child in data)


def shape_of(data: Any, max_elements: int, told: str = '"data"') -> tuple[int, ...]:
    """Lengths per level, e.g. [3, H, W]; walks every list above the innermost level, none before it is counted.

    Args:
        data: a list of simdjson's.
        max_elements: most numbers.
        told: what it is, for messages.

    Raises:
        MalformedBody: its lists are ragged, mixed with numbers, or nested too deep.
        BodyTooLarge: it declares too many numbers or lists.
    """
    shape: list[int] = []
    level = [data]
    while True:
        length = len(level[0])
        if any(len(entry) != length for entry in level):
            raise MalformedBody(_ragged((*shape, length), told))
        shape.append(length)
        check_count(math.prod(shape), max_elements)
        if length == 0 or not isinstance(level[0][0], simdjson.Array):
            return tuple(shape)
        if len(shape) == MAX_DIMS:
            raise MalformedBody(f"{told} is nested deeper than {MAX_DIMS} levels")
        check_num_lists(shape)
        children = [child for entry in level for child in entry]
        if not all(isinstance(child, simdjson.Array) for child in children):
            raise MalformedBody(f"{told} mixes numbers and lists at one level")
        level = children


def parsed(body: bytes | bytearray) -> tuple[bytes | bytearray, Any]:
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


def unique(document: Any, told: str, wanted: AbstractSet[str] | None = None) -> dict[str, Any]:
    """An object's entries; simdjson gives the first of two keys where every other reader gives the last."""
    found: dict[str, Any] = {}
    for key in itertools.islice(document, MAX_LISTS):
        if wanted is None or key in wanted:
            if key in found:
                raise MalformedBody(f"{told} has two keys named {key[:40]!r}; send one")
            found[key] = document[key]  # .items() would make Python objects of everything inside
    return found


def _num_keys_named_data(body: bytes | bytearray, document: Any) -> int:
    # simdjson gives the first of two keys, where every other reader gives the last: so two are refused. The usual body
    # is not walked; a backslash could spell the name another way.
    if body.count(b'"data"') == 1 and b"\\" not in body:
        return int("data" in document)
    return sum(key == "data" for key in document)


def _no_number(data: Any, depth: int) -> str:
    """What stands at the innermost level and is no number, for a message; "" where it comes too late to look for."""
    for entry in itertools.islice(entries(data, depth), MAX_LISTS):
        if isinstance(entry, bool) or not isinstance(entry, (int, float)):
            return f"; it holds {kind(entry)}"
    return ""


def entries(data: Any, depth: int) -> Iterator[Any]:
    """What stands at the innermost of `depth` levels, in order."""
    if depth == 1:
        yield from data
    else:
        for child in data:
            yield from entries(child, depth - 1)


def kind(value: object) -> str:
    """What a value is, for a message."""
    if value is None:
        return "null"
    kinds = {"bool": "true or false", "str": "text", "Object": "an object", "Array": "a list among numbers"}
    return kinds.get(type(value).__name__, "a number")


def _ragged(shape: tuple[int, ...], told: str = '"data"') -> str:
    return f"{told} is ragged: its first lists say {list(shape)}, and not all lists at a level are equally long"
