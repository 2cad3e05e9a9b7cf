"""Durations as people type them."""

from __future__ import annotations

import re

_UNITS_S = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*")


def parse_duration(text: str, *, zero: bool = False) -> float:
    """Seconds of "30s", "1.5m", "500ms" or a bare number of seconds.

    Args:
        text: what was typed.
        zero: whether "0" is allowed.

    Raises:
        ValueError: anything else.
    """
    match = _PATTERN.fullmatch(text)
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else -1.0
    if seconds < 0 or (seconds == 0 and not zero):
        rule = 'duration must look like "30s", "2m" or "500ms"'
        raise ValueError(f"{rule}{'' if zero else ' and be above 0'}, got {text!r}")
    return seconds
