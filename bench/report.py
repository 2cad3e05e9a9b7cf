"""peers.json to a page and a picture."""

from __future__ import annotations

import statistics
import textwrap
from pathlib import Path
from typing import Any

from bench.cells import BARE, BF16, CELLS, SMARTBATCH

TARGETS = {
    "stock_jpeg_fp32": 2.5,
    "stock_jpeg_bf16": 4.0,
    "fastapi_json": 5.0,
    "fastapi_same_image": 10.0,
    "fastest_peer_identical_forward": 1.0,
    "fastest_peer_as_documented": 2.0,
    "bare_forward": 0.85,
}
TITLES = {
    "documented": "As each is documented",
    "identical": "Around the identical forward function (one worker a core, one thread each)",
}
BODIES = {
    "jpeg375": "375×500 JPEG",
    "jpeg224": "224×224 JPEG",
    "npy": "224×224 uint8 .npy, 150 kB",
    "json": "224×224 JSON, 3 MB",
}


def markdown(results: dict[str, Any]) -> str:
    """The two tables, the ratios and what they were taken on."""
    machine, settings = results["machine"], results["settings"]
    lines = [
        "# SmartBatch beside its peers",
        "",
        f"{machine['processor']} (family/model {machine['family_model']}), {machine['cores']} cores, "
        f"{machine['memory_gb']} GiB, {machine['instructions'] or 'no listed instruction sets'}; "
        f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}. "
        f"Load average before: {machine['load_average_1m_before']}.",
        "",
        f"wrk, {settings['connections']} connections, on the same cores; medians of {settings['rounds']} interleaved "
        f"rounds of {settings['seconds']:g} s, (lowest–highest). Batches of at most 32 after at most 10 ms for all.",
    ]
    if settings["overrides"]:
        lines.append(f"SmartBatch's archive with {', '.join(settings['overrides'])}.")
    for table, title in TITLES.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| server | body | images/s | CPU ms/image | p95 ms | failed | wrk CPU | memory MB |",
        ]
        lines.append("| --- |" + " --- |" * 7)
        for cell in CELLS:
            runs = results["samples"].get(cell.key) or []
            if cell.table != table or not runs:
                continue
            rates = [run["requests_per_s"] for run in runs]
            lines.append(
                f"| {_bold(cell.title)} | {BODIES[cell.workload]} | {_spread(rates)} "
                f"| {_cost(runs)} "
                f"| {statistics.median(run['p95_ms'] for run in runs):.0f} | {sum(run['num_failed'] for run in runs)} "
                f"| {statistics.median(run['generator_cpu_share'] for run in runs):.1%} "
                f"| {results['memory_mb'].get(f'{cell.table}:{cell.backend}', '')} |"
            )
        if table == "identical" and results["samples"].get(BARE):
            runs = results["samples"][BARE]
            lines.append(
                f"| bare forward loop, micro-batch {settings['bare_micro_batch']} | none "
                f"| {_spread([run['requests_per_s'] for run in runs])} | {_cost(runs)} | | | | |"
            )
    lines += ["", "## Ratios, SmartBatch ÷ the other", "", "| | images/s | images per CPU second | wanted |"]
    lines.append("| --- | --- | --- | --- |")
    for name, ratio in results["ratios"].items():
        cpu_ratio = results["ratios_of_cpu_time"][name]
        lines.append(f"| {name} | {_ratio(ratio)} | {_ratio(cpu_ratio)} | {TARGETS.get(name, '')} |")
    lines += [
        "",
        "Images per CPU second: what the server's processes used, whatever else ran meanwhile. "
        "Where the two columns differ, others took part of the cores, or the server left them idle.",
    ]
    if results["skipped"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {key}: {' '.join(reason.split())[:300]}" for key, reason in results["skipped"].items()]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars for both tables."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for axis, (table, title) in zip(axes, TITLES.items(), strict=True):
        rows = [
            (f"{cell.title}\n{BODIES[cell.workload]}", results["images_per_s"][cell.key], cell.title)
            for cell in CELLS
            if cell.table == table and cell.key in results["images_per_s"]
        ]
        if table == "identical" and BARE in results["images_per_s"]:
            rows.append(("bare forward loop", results["images_per_s"][BARE], "bare"))
        rows.reverse()
        colours = ["#d95f02" if own in (SMARTBATCH, BF16) else "#999999" for *_, own in rows]
        bars = axis.barh([label for label, *_ in rows], [rate for _, rate, _ in rows], color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.set_title(textwrap.fill(title, 45), fontsize=10)
        axis.set_xlabel("images/s")
        axis.tick_params(axis="y", labelsize=8)
        axis.margins(x=0.12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bold(title: str) -> str:
    return f"**{title}**" if title in (SMARTBATCH, BF16) else title


def _ratio(ratio: float | None) -> str:
    return "not measured" if ratio is None else f"{ratio:.2f}"


def _cost(runs: list[dict[str, Any]]) -> str:
    costs = [run["server_cpu_ms"] for run in runs if run["server_cpu_ms"]]
    return f"{statistics.median(costs):.1f}" if costs else ""


def _spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})"
