"""`{"text": …}` JSON and plain UTF-8, to the texts in it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any

import simdjson

from smartbatch_worker.contract import media_types
from smartbatch_worker.errors import BodyTooLarge, MalformedBody, UnknownFormat
from smartbatch_worker.formats import json_errors, json_lists

TEXT, PAIR = "text", "text_pair"
_OTHER_KEYS = ("data", "inputs", "instances")
"""Of bodies that other readers know, which a model of text takes as well."""
_SETTINGS = (
    "stream",
    "parameters",
    "max_new_tokens",
    "max_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "stop",
)
"""Keys with which other servers are told how to go on from a text."""
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")


@dataclass(frozen=True, slots=True)
class Texts:
    """Of one request."""

    texts: list[str]
    pairs: list[str] | None
    """What each text is compared with, or asked about."""
    is_list: bool
    """Whether the client sent a list, and so gets a list of answers."""


def read(body: bytes | bytearray, content_type: str, max_items: int) -> Texts | None:
    """The texts of a body; None where it is none of text, but may be one of another format.

    Args:
        body: the raw bytes.
        content_type: the request's Content-Type, lower case, or "".
        max_items: most texts in one request.

    Raises:
        MalformedBody: JSON, or UTF-8, whose rules are broken.
        BodyTooLarge: more than max_items texts.
        UnknownFormat: another charset.
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip()
    if media_type == media_types.TEXT:
        return Texts([_plain(body, parameters)], None, False)
    if media_type in (media_types.JSON, "text/json") or (not media_type and json_lists.resembles(body)):
        return _json(body, max_items)
    return None


def _plain(body: bytes | bytearray, parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"')
        if name.strip() == "charset" and charset not in _CHARSETS:
            raise UnknownFormat(f"text must be UTF-8; its Content-Type says charset {charset[:40]!r}")
    try:
        return body.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"text must be UTF-8; the body breaks its rules at byte {error.start}") from None


def _json(body: bytes | bytearray, max_items: int) -> Texts | None:
    try:
        # A parser owns its documents' memory and refuses reuse while one is alive, so each body gets its own.
        document: Any = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError, UnicodeDecodeError) as error:
        if json_errors.with_doubles(body, error) is not None:
            if b'"text"' not in body:
                return None  # of numbers, whose reader has a way with those beyond 64 bits
            raise MalformedBody('beside "text" stands a number beyond 64 bits; write it as text') from None
        raise MalformedBody(f"the body is not valid JSON: {json_errors.explain(body, error)}") from None
    if not isinstance(document, simdjson.Object):
        raise MalformedBody('the JSON body must be an object {"text": "..."}')
    if TEXT not in document:
        if others := [key for key in _OTHER_KEYS if key in document]:
            _refuse_texts_under(others[0], document[others[0]])
            return None
        raise MalformedBody('the JSON body has no "text"; send {"text": "..."} or {"text": ["...", ...]}')
    found = [key for key in document if key in (TEXT, PAIR)]
    for key in set(found):
        if found.count(key) > 1:  # simdjson takes the first, where other readers take the last
            raise MalformedBody(f'the JSON body has {found.count(key)} keys named "{key}"; send one')
    asked = next((key for key in document if key in _SETTINGS and document[key] not in (None, False)), None)
    if asked is not None:
        raise MalformedBody(
            f'"{asked}" is no setting of a request here: how a text is answered is the model\'s configuration '
            '(max_new_tokens, topk), the likeliest token is taken, and the answer comes whole; send "text" without it'
        )
    texts, is_list = _strings(document[TEXT], TEXT, max_items)
    if PAIR not in found:
        return Texts(texts, None, is_list)
    pairs, is_list_of_pairs = _strings(document[PAIR], PAIR, max_items)
    if is_list_of_pairs != is_list or len(pairs) != len(texts):
        raise MalformedBody(f'"text_pair" must be as "text" is: got {len(texts)} and {len(pairs)} texts')
    return Texts(texts, pairs, is_list)


def _refuse_texts_under(key: str, value: Any) -> None:
    """Other servers of texts take them under other names, which here are those of numbers."""
    first = value[0] if isinstance(value, simdjson.Array) and len(value) > 0 else value
    if isinstance(first, str):
        raise MalformedBody(
            f'"{key}" holds numbers here; a text is sent as {{"text": "..."}}, several as a list of such'
        )


def _strings(value: Any, key: str, max_items: int) -> tuple[list[str], bool]:
    """The text, or the texts of a list: counted before any of them is made."""
    if isinstance(value, str):
        return [value], False
    if not isinstance(value, simdjson.Array):
        raise MalformedBody(f'"{key}" must be a text, or a list of texts')
    if len(value) == 0:
        raise MalformedBody(f'"{key}" is an empty list; send at least one text')
    if len(value) > max_items:
        raise BodyTooLarge(f"the request has {len(value)} texts; at most {max_items} are accepted (max_items)")
    texts = [text for text in value if isinstance(text, str)]
    if len(texts) != len(value):
        raise MalformedBody(f'"{key}" must hold texts only')
    return texts, True
