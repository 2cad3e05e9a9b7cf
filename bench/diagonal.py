"""Predicted beside measured: equal logarithmic axes, the line on which both are the same, and a band around it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def draw(axis: Any, values: Collection[float], within: float) -> None:
    """Scale a picture's axes and draw what its points are held against.

    Args:
        axis: of matplotlib.
        values: of all points, in either direction.
        within: how far the band goes to both sides, as a share of what the x axis has.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = (min(values) / 1.5, max(values) * 1.5) if values else (1.0, 10.0)
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(StrMethodFormatter("{x:g}"))
        side.set_minor_formatter(NullFormatter())
    ends = [low, high]
    axis.plot(ends, ends, color="#888888", linewidth=1)
    axis.fill_between(
        ends, [end * (1 - within) for end in ends], [end * (1 + within) for end in ends], color="#888888", alpha=0.12
    )
