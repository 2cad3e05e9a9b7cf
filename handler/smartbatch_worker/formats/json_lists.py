"""JSON bodies, `{"data": nested lists of numbers}`, to one float32 tensor, without a Python object per number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import simdjson
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats import json_errors
from smartbatch_worker.formats.limits import MAX_DIMS, MAX_LISTS, check_count, check_num_lists
from smartbatch_worker.kernels import json_numbers

_SIMDJSON_MAX_LENGTH = 2**24 - 1  # it counts a list's entries up to here


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
    max_elements = config.max_elements
    if (tensor := json_numbers.read(body, max_elements, MAX_LISTS)) is not None:
        return tensor
    body, document = parsed(body)
    if not isinstance(document, simdjson.Object):
        raise MalformedBody('the JSON body must be an object {"data": [...]}')
    num_found = _num_keys_named_data(body, document)
    if num_found == 0:
        raise MalformedBody('the JSON body has no "data"; send {"data": [...]} with nested lists of numbers')
    if num_found > 1:
        raise MalformedBody(f'the JSON body has {num_found} keys named "data"; send one')
    data = document["data"]
    if not isinstance(data, simdjson.Array):
        raise MalformedBody(f'"data" must be a nested list of numbers; got {kind(data)}')
    shape = shape_of(data, max_elements)
    try:
        numbers = np.frombuffer(data.as_buffer(of_type="d"), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise MalformedBody(f'"data" must hold numbers only{_no_number(data, len(shape))}') from None
    if shape[-1] == _SIMDJSON_MAX_LENGTH and len(shape) == 1:
        shape = (numbers.size,)
    check_count(numbers.size, max_elements)
    if numbers.size != math.prod(shape):
        raise MalformedBody(_ragged(shape))
    # as_buffer flattens, so [1, [2]] would pass for two numbers. The bracket count tells that no list hides among the
    # numbers; only a body with other brackets in it is walked.
    if count(body, b"[") != num_lists(shape):
        if numbers.size > MAX_LISTS:
            raise MalformedBody('with more than a million numbers, nothing but the lists of "data" may hold a "["')
        if holds_lists(data, len(shape)):
            raise MalformedBody('"data" mixes numbers and lists at one level')
    with np.errstate(over="ignore"):
        return torch.from_numpy(numbers.astype(np.float32)).reshape(shape)


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
