"""The load a setting is tuned for, where it is no clients that wait: a rate, or moments that somebody recorded."""

from __future__ import annotations

import math
from pathlib import Path

from smartbatch.errors import UsageError
from smartbatch.simulation.load import OpenLoop
from smartbatch.simulation.score import NUM_REQUESTS

LEAST_MOMENTS = 20
"""Of a trace: of fewer there is no p95."""


def by_chance(rate: float) -> OpenLoop:
    """Random arrivals, just so many a second, as many as the model of the server replays.

    Args:
        rate: requests a second.
    """
    drawn = OpenLoop.poisson(rate, NUM_REQUESTS)
    stretch = drawn.requests_per_s / rate
    return OpenLoop(tuple(stretch * (moment - drawn.times_s[0]) for moment in drawn.times_s))


def from_trace(file: Path) -> OpenLoop:
    """Moments in seconds, one a line (of a CSV file: its first column, which may have a heading); the first is 0 then.

    Args:
        file: times of any clock, as a log has them, in any order.

    Raises:
        UsageError: there is no such file, or a line of it is no moment.
    """
    if not file.is_file():
        raise UsageError(f"--trace must be a file, got {str(file)!r}")
    moments: list[float] = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        word = line.partition(",")[0].strip()
        if not word:
            continue
        try:
            moment = float(word)
        except ValueError:
            if number == 1:
                continue
            moment = math.nan
        if not math.isfinite(moment):
            raise UsageError(f"--trace: line {number} of {file} must be a moment in seconds, got {word!r}")
        moments.append(moment)
    moments.sort()
    if len(moments) < LEAST_MOMENTS or moments[0] == moments[-1]:
        raise UsageError(
            f"--trace: {file} must have at least {LEAST_MOMENTS} moments in seconds, one a line, not all the same; it "
            f"has {len(moments)}"
        )
    return OpenLoop(tuple(moment - moments[0] for moment in moments))
