"""Markdown of what `bench.peers` measured: README's table, the ratios with their goals, the identical forward."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from bench.cells import (
    BARE,
    BF16,
    DOCUMENTED_PEERS,
    EXPERT_PEERS,
    EXPERT_TABLES,
    IDENTICAL_PEERS,
    OBJECTIVE_MS,
    PRECISIONS,
    SMARTBATCH,
    STOCK,
    in_precision,
)
from bench.figures.data import Data, machine_of
from bench.figures.words import NOT_MEASURED, fill, markdown_table, three
from bench.report import wanted

RATIOS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("TorchServe's `image_classifier`, 375×500 JPEG, fp32 both", ("stock_jpeg_fp32",), "stock_jpeg_fp32"),
    ("the same, SmartBatch in bf16", ("stock_jpeg_bf16",), "stock_jpeg_bf16"),
    (
        "the fastest peer as its documentation writes it ({documented}), fp32",
        ("fastest_peer_as_documented",),
        "fastest_peer_as_documented",
    ),
    (
        "the FastAPI reference (fp32), 3 MB JSON, SmartBatch in fp32 / bf16",
        ("fastapi_json", "fastapi_json_bf16"),
        "fastapi_json",
    ),
    (
        "the FastAPI reference on JSON, the same image as uint8 `.npy`, fp32 / bf16",
        ("fastapi_same_image", "fastapi_same_image_bf16"),
        "fastapi_same_image",
    ),
    (
        "the same as JPEG, fp32 / bf16",
        ("fastapi_same_image_jpeg", "fastapi_same_image_jpeg_bf16"),
        "fastapi_same_image",
    ),
    ("the bare forward loop at its best micro-batch, fp32", ("bare_forward",), "bare_forward"),
    (
        "the fastest peer around the identical forward ({identical})",
        ("fastest_peer_identical_forward",),
        "fastest_peer_identical_forward",
    ),
    ("the best peer as an expert writes it ({expert_fp32}), 375×500 JPEG, fp32", ("expert_fp32",), "expert_fp32"),
    ("the same in bf16 ({expert_bf16})", ("expert_bf16",), "expert_bf16"),
    (
        f"the best expert's goodput ({{goodput_fp32}}): random arrivals a second at p95 ≤ {OBJECTIVE_MS:g} ms, fp32",
        ("goodput_fp32",),
        "goodput_fp32",
    ),
    ("the same in bf16 ({goodput_bf16})", ("goodput_bf16",), "goodput_bf16"),
)
"""Each row: what SmartBatch is divided by, the keys of peers.json, and the key of the goal in `bench.report`."""


def summary(data: Data) -> str:
    """README's table: the machine, the main figures, and where SmartBatch is not ahead."""
    if "peers" not in data:
        return NOT_MEASURED
    settings = data["peers"]["settings"]
    intro = (
        f"ResNet18 on {machine_of(data)}, no GPU, the load generator on the same cores; {settings['connections']} "
        f"connections, medians of {settings['rounds']} interleaved rounds of {settings['seconds']:g} s:"
    )
    both = (SMARTBATCH, BF16)
    named = sorted(DOCUMENTED_PEERS, key=lambda peer: -(_rate(data, "documented", peer, "jpeg375") or 0))
    identical, _ = _fastest(data, "identical", IDENTICAL_PEERS, "npy")
    rows = [
        (
            "JPEG, 375×500",
            "**SmartBatch**, fp32 / bf16",
            *_cells(data, "documented", both, "jpeg375", " / ", bold=True),
        ),
        ("", "TorchServe's `image_classifier`", *_cells(data, "documented", (STOCK,), "jpeg375")),
        (
            "",
            f"{', '.join(named)} as their documentation writes them",
            *_cells(data, "documented", named, "jpeg375", ", "),
        ),
        *_experts(data),
        ("JSON, 3 MB", "**SmartBatch**, fp32 / bf16", *_cells(data, "documented", both, "json", " / ", bold=True)),
        ("", "the FastAPI batcher this began as", *_cells(data, "documented", ("FastAPI reference",), "json")),
        ("uint8 `.npy`", "**SmartBatch**, bf16", *_cells(data, "documented", (BF16,), "npy", bold=True)),
        ("", "SmartBatch around the identical forward (fp32)", *_cells(data, "identical", (SMARTBATCH,), "npy")),
        (
            "",
            f"{identical} around the identical forward: the fastest peer",
            *_cells(data, "identical", (identical,), "npy"),
        ),
    ]
    lines = [fill(intro), "", *markdown_table(("body", "server", "images/s", "CPU ms an image", "p95 ms"), rows)]
    ratio = data["peers"]["ratios"]["fastest_peer_identical_forward"]
    if ratio:
        ahead = (
            f"{identical} is {100 / ratio - 100:.0f} % ahead"
            if ratio < 1
            else f"SmartBatch is {100 * ratio - 100:.0f} % ahead"
        )
        lines += ["", f"The forward is what makes the difference; around one and the same forward {ahead}."]
    return "\n".join(lines)


def ratios(data: Data) -> str:
    """SmartBatch ÷ the others, with the goals."""
    if "peers" not in data:
        return NOT_MEASURED
    peers = data["peers"]
    names = {
        "documented": _fastest(data, "documented", DOCUMENTED_PEERS, "jpeg375")[0],
        "identical": _fastest(data, "identical", IDENTICAL_PEERS, "npy")[0],
        **{
            f"{table}_{precision}": _best(data, table, precision)[0]
            for table in EXPERT_TABLES
            for precision in PRECISIONS
        },
    }
    rows = []
    for title, keys, goal in RATIOS:
        found = [peers["ratios"].get(key) for key in keys]
        if not any(found):
            continue  # of a run without it, or on a machine without such instructions
        per_cpu = [peers["ratios_of_cpu_time"].get(key) for key in keys]
        least = wanted(goal, peers["machine"])
        assert least is not None
        verdicts = ["–" if ratio is None else "met" if ratio >= least else "**missed**" for ratio in found]
        bold = f"**{' / '.join(map(three, found))}**"
        rows.append((title.format(**names), bold, " / ".join(map(three, per_cpu)), f"{least:g}", " / ".join(verdicts)))
    return "\n".join(markdown_table(("SmartBatch ÷", "images/s", "images per CPU second", "goal", ""), rows))


def identical(data: Data) -> str:
    """Everybody around the same forward, images/s with lowest and highest round."""
    if "peers" not in data:
        return NOT_MEASURED
    titles = (SMARTBATCH, "TorchServe, its own configuration", *IDENTICAL_PEERS)
    keys = {title: f"identical:{title}:npy" for title in titles} | {"the bare loop": BARE}
    rates = {}
    for title, key in keys.items():
        rounds = [sample["requests_per_s"] for sample in data["peers"]["samples"].get(key, [])]
        if rounds:
            rates[title] = (statistics.median(rounds), min(rounds), max(rounds))
    ordered = sorted(rates.items(), key=lambda item: -item[1][0])
    said = "; ".join(f"{title} {three(mid)} ({three(low)}–{three(high)})" for title, (mid, low, high) in ordered)
    return fill(f"- **The identical forward**, images/s (lowest–highest round): {said}.", "  ")


def _fastest(data: Data, table: str, peers: Sequence[str], workload: str) -> tuple[str, float]:
    rates = {peer: _rate(data, table, peer, workload) or 0.0 for peer in peers}
    name = max(rates, key=lambda peer: rates[peer])
    return name, rates[name]


def _best(data: Data, table: str, precision: str) -> tuple[str, float]:
    """The expert with the highest rate: of images, or of arrivals within the objective."""
    return _fastest(data, table, [in_precision(peer, precision) for peer in EXPERT_PEERS], "jpeg375")


def _experts(data: Data) -> list[tuple[str, ...]]:
    """README's row of the best expert in each precision; none where none was measured."""
    bests = [_best(data, "expert", precision) for precision in PRECISIONS]
    titles = [title for title, rate in bests if rate]
    if not titles:
        return []
    named = f"{' / '.join(titles)}, the best as an expert writes it: libjpeg-turbo, a library's fastest forward, tuned"
    return [("", named, *_cells(data, "expert", titles, "jpeg375", " / "))]


def _rate(data: Data, table: str, title: str, workload: str) -> float | None:
    key = f"{table}:{title}:{workload}"
    goodput: dict[str, Any] = data["peers"].get("goodput", {}).get(key, {})
    rate: float | None = data["peers"]["images_per_s"].get(key, goodput.get("requests_per_s"))
    return rate


def _cells(
    data: Data, table: str, titles: Iterable[str], workload: str, between: str = "", bold: bool = False
) -> tuple[str, str, str]:
    """Images/s, CPU ms an image and p95 of contestants, each three joined by `between`."""
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    for title in titles:
        samples = data["peers"]["samples"].get(f"{table}:{title}:{workload}", [])
        rates = [sample["requests_per_s"] for sample in samples]
        costs = [sample["server_cpu_ms"] for sample in samples if sample["server_cpu_ms"]]
        latencies = [sample["p95_ms"] for sample in samples]
        columns[0].append(three(statistics.median(rates) if rates else None))
        columns[1].append(f"{statistics.median(costs):.1f}" if costs else "–")
        columns[2].append(f"{statistics.median(latencies):.0f}" if latencies else "–")
    rate, cost, latency = (between.join(column) for column in columns)
    return (f"**{rate}**" if bold else rate), cost, latency
