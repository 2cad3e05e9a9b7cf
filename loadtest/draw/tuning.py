"""`tuning.png`: what the model of the server says of every setting, and what those that were tried did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smartbatch_load.draw.pareto import pareto_front
from smartbatch_load.draw.plots import BLUE, GREY, ORANGE, PALE, VERMILION, legend_beside, new_figure, save, tidy


def draw_tuning(path: Path, found: Mapping[str, Any]) -> None:
    """Draw what `smartbatch tune` wrote to tuning.json: p95 against requests/s."""
    objective_ms = found["slo_p95_ms"]
    figure = new_figure(
        4.6, f"{found['model']}: settings for {found['load']}", "rings: tried; lines: best by the model"
    )
    axes = figure.subplots()
    predicted = found["predicted"]
    axes.scatter(
        [one["requests_per_s"] for one in predicted],
        [one["p95_ms"] for one in predicted],
        s=10,
        color=PALE,
        label="predicted",
        zorder=1,
    )
    front = pareto_front(
        predicted, gain=lambda one: float(one["requests_per_s"]), cost=lambda one: float(one["p95_ms"])
    )
    xs, ys = [one["requests_per_s"] for one in front], [one["p95_ms"] for one in front]
    axes.plot(xs, ys, color=GREY, linewidth=1, label="nothing better, predicted", zorder=2)
    is_told = False
    best = found["best"]
    for number, trial in enumerate(found["trials"], 1):
        is_best = best is not None and all(trial[key] == value for key, value in best.items())
        axes.scatter(
            [trial["requests_per_s"]],
            [trial["p95_ms"]],
            s=70,
            facecolors=ORANGE if is_best else "none",
            edgecolors=ORANGE if is_best else BLUE,
            linewidths=1.8,
            label="best" if is_best and not is_told else None,
            zorder=3,
        )
        is_told |= is_best
        axes.annotate(
            f"{number}: {trial['batch_size']} / {trial['max_batch_delay_ms']} ms / {trial['workers']}",
            (trial["requests_per_s"], trial["p95_ms"]),
            xytext=(7, 5),
            textcoords="offset points",
            fontsize=8,
        )
    if objective_ms is not None:
        axes.axhline(objective_ms, color=VERMILION, linewidth=1, label=f"objective: {objective_ms:g} ms")
    axes.set_ylim(bottom=0)
    tidy(axes, "p95 (ms)", "requests / s")
    legend_beside(axes, title="batch / delay / workers")
    save(figure, path)
