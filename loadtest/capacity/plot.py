"""`capacity.png`: latency against the rate of arrivals, and where it leaves the ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from matplotlib.ticker import LogLocator, NullFormatter
from smartbatch_load.draw.plots import BLUE, GREEN, GREY, ORANGE, VERMILION, legend_beside, new_figure, save, tidy


@dataclass(frozen=True, slots=True)
class RatePoint:
    """One rate as the picture needs it."""

    rate: float
    """Arrivals a second."""
    p50_ms: float | None
    p95_ms: float | None
    error_share: float
    ok: bool
    """Whether it met the objective."""


def draw_capacity(
    path: Path, points: Sequence[RatePoint], *, slo_ms: float, knee: float | None, title: str, caption: str
) -> None:
    """Draw p50 and p95 (log) and the share of errors against the arrival rate, with objective and knee."""
    figure = new_figure(6.4, title, caption)
    latency, errors = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ordered = sorted(points, key=lambda p: p.rate)
    for label, color, style, values in (
        ("p95", ORANGE, "--", [p.p95_ms for p in ordered]),
        ("p50", BLUE, "-", [p.p50_ms for p in ordered]),
    ):
        known: dict[float, list[float]] = {}
        for point, value in zip(ordered, values, strict=True):
            if value is not None:
                known.setdefault(point.rate, []).append(value)
        middle = [median(group) for group in known.values()]  # a rate may have been tried twice
        latency.plot(list(known), middle, color=color, linestyle=style, linewidth=2, label=label)
    for ok, marker, color, label in (
        (True, "o", GREEN, "objective met"),
        (False, "X", VERMILION, "objective missed"),
    ):
        marked = [(p.rate, p.p95_ms) for p in ordered if p.ok is ok and p.p95_ms is not None]
        if marked:
            rates, heights = zip(*marked, strict=True)
            latency.scatter(rates, heights, marker=marker, color=color, s=55, zorder=3, label=label)
    latency.axhline(slo_ms, color=VERMILION, linewidth=1, label=f"objective: p95 ≤ {slo_ms:g} ms")
    if knee is not None:
        for axes in (latency, errors):
            axes.axvline(knee, color=GREY, linewidth=1.2, linestyle=":")
        latency.plot([], [], color=GREY, linewidth=1.2, linestyle=":", label=f"knee: {knee:.3g} / s")
    latency.set_yscale("log")
    latency.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    latency.yaxis.set_minor_formatter(NullFormatter())
    latency.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    tidy(latency, "latency from the\nintended send time (ms, log)")
    latency.grid(axis="y", which="minor", color="#EEEEEE", linewidth=0.4)
    legend_beside(latency)
    errors.plot(
        [p.rate for p in ordered],
        [100 * p.error_share for p in ordered],
        color=VERMILION,
        marker="o",
        markersize=4,
    )
    errors.set_ylim(bottom=0)
    if not any(p.error_share for p in ordered):
        errors.set_ylim(0, 1)
    errors.set_xlim(left=0)
    tidy(errors, "errors (%)", "arrivals (requests / s)")
    figure.align_ylabels()
    save(figure, path)
