"""`study.png`: what a batch size buys, what it costs, and which settings nothing beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from smartbatch_load.draw.pareto import pareto_front
from smartbatch_load.draw.plots import GREY, MARKERS, SERIES, new_figure, save, tidy


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """One setting as the picture needs it."""

    series: str
    """Everything but the batch size, such as "bf16, 2 workers"; empty where nothing else varies."""
    batch_size: int
    rps: float
    rps_low: float
    rps_high: float
    p50_ms: float
    p95_ms: float


def draw_study(path: Path, points: Sequence[StudyPoint], title: str, caption: str) -> None:
    """Draw throughput and latency against batch size, and the Pareto front of p95 against throughput."""
    figure = new_figure(8.2, title, caption)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.15))
    rate, latency = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    front = figure.add_subplot(grid[1, :])
    names = list(dict.fromkeys(point.series for point in points))
    for index, name in enumerate(names):
        color, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        own = sorted((p for p in points if p.series == name), key=lambda p: p.batch_size)
        sizes = [p.batch_size for p in own]
        spread = [[p.rps - p.rps_low for p in own], [p.rps_high - p.rps for p in own]]
        rate.errorbar(sizes, [p.rps for p in own], yerr=spread, color=color, marker=marker, capsize=4, linewidth=2)
        latency.plot(sizes, [p.p50_ms for p in own], color=color, marker=marker, linewidth=2)
        latency.plot(sizes, [p.p95_ms for p in own], color=color, marker=marker, linewidth=2, linestyle="--")
        front.scatter(
            [p.rps for p in own],
            [p.p95_ms for p in own],
            color=color,
            marker=marker,
            s=45,
            zorder=3,
            label=name,
        )
    _batch_axis(rate, points)
    _batch_axis(latency, points)
    rate.set_ylim(bottom=0)
    latency.set_ylim(bottom=0)
    tidy(rate, "requests / s\n(median, lowest to highest round)", "batch size (requests, log)")
    tidy(latency, "latency (ms)", "batch size (requests, log)")
    solid = latency.plot([], [], color=GREY, linewidth=2, label="p50")
    dashed = latency.plot([], [], color=GREY, linewidth=2, linestyle="--", label="p95")
    latency.legend(handles=[*solid, *dashed], loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    _draw_front(front, points)
    handles, labels = front.get_legend_handles_labels()
    shown = [(h, text) for h, text in zip(handles, labels, strict=True) if text]
    figure.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)


def _batch_axis(axes: Axes, points: Sequence[StudyPoint]) -> None:
    sizes = sorted({point.batch_size for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.margins(x=0.08)


def _draw_front(axes: Axes, points: Sequence[StudyPoint]) -> None:
    best = pareto_front(points, gain=lambda p: p.rps, cost=lambda p: p.p95_ms)
    axes.plot(
        [p.rps for p in best],
        [p.p95_ms for p in best],
        color=GREY,
        linewidth=1.2,
        linestyle=":",
        zorder=2,
        label="Pareto front (ringed)",
    )
    axes.scatter([p.rps for p in best], [p.p95_ms for p in best], s=150, facecolors="none", edgecolors=GREY, zorder=2)
    axes.set_xlim(*_limits([p.rps for p in points]))
    axes.set_ylim(*_limits([p.p95_ms for p in points]))
    _label_points(axes, points)
    tidy(axes, "p95 latency (ms)\nlower is better", "requests / s (further right is better); labels: batch size")


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Close to the values, but never so close that small differences look large."""
    pad = max(0.2 * (max(values) - min(values)), 0.1 * max(values))
    return max(0.0, min(values) - pad), max(values) + pad


def _label_points(axes: Axes, points: Sequence[StudyPoint]) -> None:
    """Write each batch size by its point, on the first side where no other label or point is in the way."""
    axes.figure.canvas.draw()  # lays the axes out, so that pixels are known
    pixels = [tuple(axes.transData.transform((p.rps, p.p95_ms))) for p in points]
    taken = list(pixels)
    for point, (x, y) in zip(points, pixels, strict=True):
        sides = [(x + dx, y + dy) for dx, dy in ((0, 20), (0, -20), (22, 0), (-22, 0), (20, 20), (-20, -20))]
        spot = max(sides, key=lambda side: min(24.0, _nearest(side, [t for t in taken if t != (x, y)])))
        taken.append(spot)
        axes.annotate(
            str(point.batch_size),
            tuple(axes.transData.inverted().transform(spot)),
            ha="center",
            va="center",
            fontsize=9,
        )


def _nearest(spot: tuple[float, float], others: Sequence[tuple[float, ...]]) -> float:
    return min((math.dist(spot, other) for other in others), default=math.inf)
