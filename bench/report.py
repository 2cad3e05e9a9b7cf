"""peers.json to a page and a picture."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cells import BARE, BF16, CELLS, EXPERT_PEERS, OBJECTIVE_MS, PRECISIONS, SMARTBATCH, Cell

TARGETS = {
    "stock_jpeg_fp32": 2.5,
    "stock_jpeg_bf16": 4.0,
    "fastapi_json": 5.0,
    "fastapi_same_image": 10.0,
    "fastest_peer_identical_forward": 1.0,
    "fastest_peer_as_documented": 2.0,
    "bare_forward": 0.85,
    "expert_fp32": 2.0,
    "expert_bf16": 1.4,
    "goodput_fp32": 1.5,
    "goodput_bf16": 1.5,
}
WITH_AMX = {"expert_bf16": 1.0}
"""Where the fastest forward is a library's, which the experts have as well."""
TITLES = {
    "documented": "As each is documented",
    "identical": "Around the identical forward function (one worker a core, one thread each)",
    "expert": "As an expert writes each",
}
GOODPUT_TITLE = f"Goodput: the highest rate of random arrivals at p95 ≤ {OBJECTIVE_MS:g} ms"
BODIES = {
    "jpeg375": "375×500 JPEG",
    "jpeg224": "224×224 JPEG",
    "npy": "224×224 uint8 .npy, 150 kB",
    "json": "224×224 JSON, 3 MB",
}


def wanted(ratio: str, machine: Mapping[str, Any]) -> float | None:
    """The goal of a ratio on this machine; None where it has none."""
    targets = TARGETS | (WITH_AMX if "amx_bf16" in str(machine.get("instructions", "")) else {})
    return targets.get(ratio)


def markdown(results: dict[str, Any]) -> str:
    """The tables, the ratios and what they were taken on."""
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
        if not _rows(results, table):
            continue
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
    lines += [*_goodput(results), *_setups(results)]
    lines += ["", "## Ratios, SmartBatch ÷ the other", "", "| | images/s | images per CPU second | wanted |"]
    lines.append("| --- | --- | --- | --- |")
    for name, ratio in results["ratios"].items():
        cpu_ratio = results["ratios_of_cpu_time"][name]
        goal = wanted(name, machine)
        lines.append(f"| {name} | {_ratio(ratio)} | {_ratio(cpu_ratio)} | {'' if goal is None else goal} |")
    lines += [
        "",
        "Images per CPU second: what the server's processes used, whatever else ran meanwhile. "
        "Where the two columns differ, others took part of the cores, or the server left them idle.",
    ]
    if results["skipped"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {key}: {' '.join(reason.split())[:300]}" for key, reason in results["skipped"].items()]
    return "\n".join(lines) + "\n"


def _rows(results: dict[str, Any], table: str) -> list[Cell]:
    return [cell for cell in CELLS if cell.table == table and results["samples"].get(cell.key)]


def _goodput(results: dict[str, Any]) -> list[str]:
    """Each contestant's knee; nothing where none was looked for."""
    found = results.get("goodput") or {}
    if not found:
        return []
    lines = [
        "",
        f"## {GOODPUT_TITLE}",
        "",
        "| server | requests/s | p95 there, ms | rates tried | generator late, ms |",
    ]
    lines.append("| --- |" + " --- |" * 4)
    for cell in CELLS:
        if cell.key in found:
            rate, rungs = found[cell.key]["requests_per_s"], found[cell.key]["rungs"]
            held = [1000 * rung["p95_s"] for rung in rungs if rung["rate"] == rate]
            late = max(1000 * (rung["lag_p95_s"] or 0) for rung in rungs)
            shown = "none" if rate is None else f"{rate:.1f}"
            p95 = f"{max(held):.0f}" if held else ""
            lines.append(f"| {_bold(cell.title)} | {shown} | {p95} | {len(rungs)} | {late:.1f} |")
    return lines


def _setups(results: dict[str, Any]) -> list[str]:
    """What was chosen for the experts' servers, of what was tried."""
    lines: list[str] = []
    for precision in PRECISIONS:
        found = (results.get("setups") or {}).get(precision)
        if found is None:
            continue
        lines += ["", f"## How the experts' servers are set up, {precision}", ""]
        lines += [f"- Engine: {found['engine']}, at most {found['micro_batch']} images a forward. Images/s by that:"]
        for engine, rates in found["engines"].items():
            said = rates if isinstance(rates, str) else ", ".join(f"{size}: {rate:g}" for size, rate in rates.items())
            lines.append(f"  - {engine}: {' '.join(said.split())}")
        for peer in (SMARTBATCH, *EXPERT_PEERS):
            if peer in found:
                best, best_within = found[peer]["expert"], found[peer]["goodput"]
                lines.append(
                    f"- {peer}: for images/s {_spelled(best['setup'])}; within the objective "
                    f"{_spelled(best_within['setup'])}; of {len(found[peer]['tried'])} that were tried."
                )
    return lines


def _spelled(setup: dict[str, Any]) -> str:
    if "processes" not in setup:
        return f"batches of {setup['batch_size']}"
    decoders = f", {setup['decoders']} processes that decode" if setup["decoders"] else ""
    return f"{setup['processes']} × {setup['threads']} threads, batches of {setup['batch_size']}{decoders}"


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars for each table, and for goodput."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    goodput = {key: found["requests_per_s"] or 0.0 for key, found in (results.get("goodput") or {}).items()}
    rates = results["images_per_s"] | goodput
    tables = {
        table: title
        for table, title in (TITLES | {"goodput": GOODPUT_TITLE}).items()
        if any(cell.table == table and cell.key in rates for cell in CELLS)
    }
    num_rows = max(1, -(-len(tables) // 2))
    figure, axes = plt.subplots(num_rows, 2, figsize=(13, 5 * num_rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(tables) :]:
        axis.axis("off")
    for axis, (table, title) in zip(axes.flat, tables.items(), strict=False):
        rows = [
            (f"{cell.title}\n{BODIES[cell.workload]}", rates[cell.key], cell.title)
            for cell in CELLS
            if cell.table == table and cell.key in rates
        ]
        if table == "identical" and BARE in results["images_per_s"]:
            rows.append(("bare forward loop", results["images_per_s"][BARE], "bare"))
        rows.reverse()
        colours = ["#d95f02" if own in (SMARTBATCH, BF16) else "#999999" for *_, own in rows]
        bars = axis.barh([label for label, *_ in rows], [rate for _, rate, _ in rows], color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.set_title(textwrap.fill(title, 45), fontsize=10)
        axis.set_xlabel("requests/s" if table == "goodput" else "images/s")
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
