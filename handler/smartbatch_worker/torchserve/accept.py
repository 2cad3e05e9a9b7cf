"""The Accept header: which of the forms that answers have a client wants most."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from smartbatch_worker.contract import media_types
from smartbatch_worker.errors import MalformedBody, NotAcceptable

ANSWERS = (media_types.JSON, media_types.NPY, media_types.NPZ, media_types.SAFETENSORS)
"""What answers may be, the server's own choice first."""

_QUALITY = re.compile(r"\d{0,3}\.?\d{0,9}", re.ASCII)
_MAX_TOLD_CHARS = 60


@functools.lru_cache(maxsize=256)
def choose(accept: str, offered: Sequence[str] = ANSWERS) -> str:
    """The media type to answer in.

    The highest quality wins; among equals what is named as such, then what is named first, then the server's order:
    `application/x-npy, */*` is .npy.

    Args:
        accept: the header's value; empty where there is none, which takes anything.
        offered: the types that this answer can have.

    Raises:
        NotAcceptable: none of the offered is taken.
        MalformedBody: a quality is no number.
    """
    ranges = list(_ranges(accept))
    if not ranges:
        return offered[0]
    best, chosen = (0.0, 0, 0), None
    for media_type in offered:
        # The most specific range that names a type speaks for it: `*/*, text/html;q=0` is anything but HTML.
        matching = [
            (_specificity(pattern), quality, -place)
            for place, (pattern, quality) in enumerate(ranges)
            if pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*")
        ]
        specificity, quality, place = max(matching, default=(0, 0.0, 0))
        if quality > 0 and (quality, specificity, place) > best:
            best, chosen = (quality, specificity, place), media_type
    if chosen is None:
        told = accept if len(accept) <= _MAX_TOLD_CHARS else accept[:_MAX_TOLD_CHARS] + "…"
        raise NotAcceptable(f"Accept takes none of what this answer can be, {', '.join(offered)}; got {told!r}")
    return chosen


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """(media type or wildcard, quality) of each entry, in order."""
    for entry in accept.lower().split(","):
        pattern, *parameters = (part.strip() for part in entry.split(";"))
        if not pattern:
            continue
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _quality(value.strip())
        yield ("*/*" if pattern == "*" else pattern), quality  # `*` alone is what Java's old client sends


def _quality(text: str) -> float:
    if not _QUALITY.fullmatch(text) or text in ("", ".") or float(text) > 1:
        raise MalformedBody(f"q in Accept must be a number from 0 to 1; got {text[:20]!r}")
    return float(text)


def _specificity(pattern: str) -> int:
    return 1 if pattern == "*/*" else 2 if pattern.endswith("/*") else 3
