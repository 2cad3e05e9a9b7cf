"""`performance_plot.png`: what happened second by second while the users rose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smartbatch_load.account.series import Second
from smartbatch_load.draw.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    known,
    legend_beside,
    new_figure,
    save,
    smooth,
    tidy,
)

SPAN_S = 5
"""Answers come a batch at a time; over this many seconds their rate is steady."""
DOT: dict[str, Any] = {"marker": "o", "markersize": 3}


def draw_stress(path: Path, seconds: Sequence[Second], title: str, caption: str) -> None:
    """Draw throughput over the user steps, latency percentiles, batch size and queue depth against time."""
    figure = new_figure(8.6, title, caption)
    rate, latency, batch, queue = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 2, 2))
    time_s = [row.second + 0.5 for row in seconds]

    users = rate.twinx()
    users.set_zorder(rate.get_zorder() - 1)  # the grey steps stay behind the line
    rate.patch.set_visible(False)
    users.fill_between(
        [row.second for row in seconds] + [seconds[-1].second + 1],
        [row.users for row in seconds] + [seconds[-1].users],
        step="post",
        color=PALE,
        linewidth=0,
        label="users",
    )
    users.set_ylabel("users", color=GREY)
    users.tick_params(axis="y", colors=GREY)
    users.set_ylim(bottom=0)
    users.spines[["top"]].set_visible(False)
    answers = [row.rps for row in seconds]
    rate.plot(time_s, answers, color=SKY, linewidth=1, label="answers")
    rate.plot(time_s, smooth(answers, SPAN_S), color=BLUE, linewidth=2.2, label=f"{SPAN_S} s average")
    if any(row.failures for row in seconds):
        failures = [row.failures for row in seconds]
        rate.plot(time_s, failures, color=VERMILION, linewidth=2, linestyle="--", label="failures")
    rate.set_ylim(bottom=0)
    tidy(rate, "requests / s")
    handles = [*rate.get_legend_handles_labels()[0], *users.get_legend_handles_labels()[0]]
    rate.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.08, 1.03), frameon=False, fontsize=9)

    for label, values, color, style in (
        ("p99", [row.p99_s for row in seconds], VERMILION, ":"),
        ("p95", [row.p95_s for row in seconds], ORANGE, "--"),
        ("p50", [row.p50_s for row in seconds], BLUE, "-"),
    ):
        latency.plot(*known(time_s, values, 1000), color=color, linestyle=style, linewidth=2, label=label, **DOT)
    latency.set_ylim(bottom=0)
    tidy(latency, "latency (ms)")
    legend_beside(latency)

    batch_sizes = [row.avg_batch_size for row in seconds]
    batch.plot(*known(time_s, batch_sizes), color=GREEN, linewidth=2, **DOT)
    batch.set_ylim(bottom=0)
    tidy(batch, "average batch\n(requests)")

    queue.plot(*known(time_s, [row.queue_depth for row in seconds]), color=PURPLE, linewidth=2, **DOT)
    queue.set_ylim(bottom=0)
    tidy(queue, "queue depth\n(requests)", "time since start (s)")
    queue.set_xlim(0, seconds[-1].second + 1)
    figure.align_ylabels()
    save(figure, path)
