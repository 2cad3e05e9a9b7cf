"""What every picture shares: Okabe-Ito colours, README width, legends beside the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
GREY, PALE = "#5F5F5F", "#DDDDDD"
SERIES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
"""Okabe and Ito's palette: told apart with any colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""A second way to tell series apart, for print and for everyone."""
WIDTH_IN, DPI = 9.0, 120


def new_figure(height_in: float, title: str, caption: str) -> Figure:
    """An empty figure at README width; `caption` (machine, settings) stands small under the title."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
    head_in = 0.45 + 0.15 * (caption.count("\n") + 1)
    figure.set_layout_engine("constrained", rect=(0.0, 0.0, 1.0, 1 - head_in / height_in))
    figure.text(0.01, 1 - 0.08 / height_in, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.01, 1 - 0.36 / height_in, caption, fontsize=8, color=GREY, va="top")
    return figure


def tidy(axes: Axes, ylabel: str, xlabel: str = "") -> None:
    """Name the axes and keep only the lines that help."""
    axes.set_ylabel(ylabel)
    if xlabel:
        axes.set_xlabel(xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def legend_beside(axes: Axes, handles: Iterable[Any] | None = None, title: str | None = None) -> None:
    """A legend right of the axes, where no data is."""
    given = {} if handles is None else {"handles": list(handles)}
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.03),
        frameon=False,
        fontsize=9,
        title=title,
        alignment="left",
        **given,
    )


def known(xs: Sequence[float], values: Sequence[float | None], scale: float = 1.0) -> tuple[list[float], list[float]]:
    """The points that have a value, so that a line spans the gaps between them."""
    pairs = [(x, value * scale) for x, value in zip(xs, values, strict=True) if value is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Centred moving average over `span` values, fewer at the ends.

    >>> smooth([0, 3, 0, 3], 3)
    [1.5, 1.0, 2.0, 1.5]
    """
    half = span // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    staged = path.with_name(f".{path.name}")
    figure.savefig(staged, format="png", dpi=DPI)
    staged.replace(path)
