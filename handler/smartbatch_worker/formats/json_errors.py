"""JSON that simdjson refuses: numbers beyond 64 bits made readable for it, and what is wrong in words a user knows."""

from __future__ import annotations

import codecs
import re

import msgspec

# What may be a large number, without its sign: digits and what stands in numbers, five in a row. A digit comes first,
# since `re` finds that quickly; what stands before it tells a number from a part of one, and from an escape in text.
_NUMBER = re.compile(rb"[0-9](?<![\w.+][0-9])[0-9.eE+-]{4,}")
# Those that may not fit: whole ones of 19 digits and more, and those with a power of three digits and more.
_LARGE = re.compile(
    rb"[1-9][0-9]{18,} (?: \.[0-9]+ )? (?: [eE][+-]?[0-9]+ )?"
    rb"| (?: 0 | [1-9][0-9]* ) (?: \.[0-9]+ )? [eE] [+-]? [0-9]{3,}",
    re.VERBOSE,
)
_NUMBER_ERRORS = ("BIGINT_ERROR", "NUMBER_ERROR")
_AT = re.compile(r"\(byte (\d+)\)")
_NO_NUMBERS = re.compile(rb"[-+]?(?:nan|infinity|inf)\b", re.IGNORECASE)


def with_doubles(body: bytes | bytearray, error: BaseException) -> bytearray | None:
    """The text with its large numbers written as the doubles they are nearest to.

    What is beyond a double becomes a large one: it is beyond float32 either way, and refused or let through as such.
    What looks so in a text, which no tensor has a use for, may be rewritten too. Memory: one copy of the body.

    Args:
        body: what simdjson refused.
        error: its reason.

    Returns:
        None where the reason is another, or there is no such number.
    """
    if not str(error).startswith(_NUMBER_ERRORS):
        return None
    rewritten, copied_to = bytearray(), 0
    for found in _NUMBER.finditer(body):  # not re.sub, which keeps an object for every number until the end
        if _LARGE.fullmatch(found[0]):
            rewritten += body[copied_to : found.start()]
            rewritten += _as_double(found[0])
            copied_to = found.end()
    if not copied_to:
        return None
    return rewritten + body[copied_to:]


def _as_double(number: bytes) -> bytes:
    value = float(number)
    return b"1e308" if value == float("inf") else repr(value).encode()


def explain(body: bytes | bytearray, error: BaseException) -> str:
    """What is wrong with a body that is no JSON, and where; `error` is simdjson's, whose own words are codes."""
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    if "DEPTH_ERROR" in str(error):
        return "it is nested too deep"
    if body.startswith(codecs.BOM_UTF8):  # simdjson skips it; msgspec does not
        body = b"   " + body[3:]
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # checks the text, builds nothing, and says the place
    except RecursionError:
        return "it is nested too deep"
    except msgspec.DecodeError as second:
        if place := _AT.search(str(second)):
            for at in (int(place[1]) - 1, int(place[1])):  # it stumbles over the word's first letter or its second
                if at >= 0 and (word := _NO_NUMBERS.match(body, at)):
                    return f"{word[0].decode()} at byte {at} is no JSON number; send finite numbers, or .npy"
        return str(second).removeprefix("JSON is malformed: ").removeprefix("Input data was ")
    return "a text or a number in it breaks JSON's rules"
