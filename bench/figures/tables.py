"""Markdown of what was measured: one function a block, which says so where its figures are missing."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence

from bench.cells import BARE, BF16, DOCUMENTED_PEERS, IDENTICAL_PEERS, SMARTBATCH, STOCK
from bench.figures.data import RUN, Data, machine_of
from bench.report import TARGETS
from bench.scale import TITLES as SWEEPS

WIDTH = 136
NOT_MEASURED = "Not measured on this machine yet; `make figures` does."

IDLE_GOAL_MS = 3.0
"""Of a lone client, beyond delay and forward."""

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
)
"""Each row: what SmartBatch is divided by, the keys of peers.json, and the key of the goal in `bench.report`."""

FORWARDS = {
    "eager": "eager, NCHW (what tutorials and TorchServe's handlers run)",
    "folded": "batch norms folded, channels_last: `compile: off`",
    "inductor": "`torch.compile`, inductor with freezing",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "winograd": "Winograd",
    "winograd_bf16": "bf16: Winograd, products by `avx512_bf16`",
    "bf16": "bf16: PyTorch, folded",
    "inductor_bf16": "bf16: inductor with freezing",
    "openvino_bf16": "bf16: OpenVINO",
}
"""Backends of `bench.experiments.forward`, in the order of the table."""

VARIANTS: dict[str, str] = {
    "winograd": "Winograd in fp32",
    "folded": "folded batch norms in fp32",
    "bf16": "PyTorch in bf16",
    "winograd_bf16": "Winograd in bf16",
    "openvino_bf16": "OpenVINO in bf16",
}


def machine(data: Data) -> str:
    """The machine, said once, and the run."""
    words = machine_of(data)
    if not words:
        return NOT_MEASURED
    run = data.get(RUN)
    whence = f"one run of `make figures` at commit {run['commit']}" if run else "several runs on it"
    return _fill(f"One machine: **{words}**; {whence}, the load generator on the same cores.")


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
    lines = [_fill(intro), "", *_table(("body", "server", "images/s", "CPU ms an image", "p95 ms"), rows)]
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
    }
    rows = []
    for title, keys, goal in RATIOS:
        found = [peers["ratios"].get(key) for key in keys]
        per_cpu = [peers["ratios_of_cpu_time"].get(key) for key in keys]
        wanted = TARGETS[goal]
        verdicts = ["–" if ratio is None else "met" if ratio >= wanted else "**missed**" for ratio in found]
        bold = f"**{' / '.join(map(_three, found))}**"
        rows.append(
            (title.format(**names), bold, " / ".join(map(_three, per_cpu)), f"{wanted:g}", " / ".join(verdicts))
        )
    return "\n".join(_table(("SmartBatch ÷", "images/s", "images per CPU second", "goal", ""), rows))


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
    said = "; ".join(f"{title} {_three(mid)} ({_three(low)}–{_three(high)})" for title, (mid, low, high) in ordered)
    return _fill(f"- **The identical forward**, images/s (lowest–highest round): {said}.", "  ")


def scale(data: Data) -> str:
    """Throughput as the work grows, memory, and what a lone client pays."""
    if "scale" not in data:
        return NOT_MEASURED
    found = data["scale"]
    rows = [
        (title, " · ".join(f"{p['x']}: {_three(p['items_per_s'])}" for p in found[name]), _ends(found[name]))
        for name, title in SWEEPS.items()
        if found.get(name)
    ]
    lines = list(_table(("varied", "value: items/s", "p95 ms, first to last"), rows))
    if found.get("idle"):
        delays, medians, forwards, beyond = (
            [point[key] for point in found["idle"]] for key in ("delay_ms", "p50_ms", "forward_ms", "beyond_ms")
        )
        verdict = "met" if max(beyond) <= IDLE_GOAL_MS else "**missed**"
        lines += [
            "",
            _fill(
                f"- **A lone client** at a delay of {_and(delays, 'd')} ms: p50 {_and(medians)} ms, of that the "
                f"forward {_and(forwards)}, and {_and(beyond)} beyond both (goal: {IDLE_GOAL_MS:g}, {verdict}).",
                "  ",
            ),
        ]
    if found.get("soak"):
        first, last = found["soak"][0], found["soak"][-1]
        most = max(sample["frontend_mb"] for sample in found["soak"])
        lines.append(
            _fill(
                f"- **Memory** over {last['s'] / 60:.0f} minutes of mixed bodies: workers {first['workers_mb']:.0f} → "
                f"{last['workers_mb']:.0f} MB, frontend {first['frontend_mb']:.0f} → {last['frontend_mb']:.0f} MB, "
                f"at most {most:.0f}.",
                "  ",
            )
        )
    return "\n".join(lines)


def forward(data: Data) -> str:
    """Images/s of one thread by micro-batch, for each way to run the forward."""
    if "forward" not in data:
        return NOT_MEASURED
    sizes = [str(size) for size in data["forward"]["sizes"]]
    rows = []
    for row in data["forward"]["rows"]:
        answer = row["answers"][0]
        if "skipped" not in answer and row["backend"] in FORWARDS:
            rates = [answer["images_per_s"][size] for size in sizes]
            cells = (*map(_three, rates), f"{answer['max_abs_diff']:.0e}", f"{answer['build_s']:.0f} s")
            rows.append((list(FORWARDS).index(row["backend"]), FORWARDS[row["backend"]], cells))
    head = ("forward", *sizes, "largest difference from eager", "to build")
    return "\n".join(_table(head, [(title, *cells) for _, title, cells in sorted(rows)]))


def agreement(data: Data) -> str:
    """What each way does to the answers."""
    if "agreement" not in data:
        return NOT_MEASURED
    found = data["agreement"]
    said = "; ".join(
        f"{VARIANTS[name]}: {round(values['top1_agreement'] * found['images']):,}, {values['largest_difference']:.2g}"
        for name, values in found["variants"].items()
    )
    largest = max((values["largest_answer"] for values in found["variants"].values()), default=0)
    return _fill(
        f"**The answers**, over {found['images']:,} seeded images each with a class of its own: how many have eager "
        f"fp32's top class, and by how much answers of up to {largest:.0f} differ at most. {said}."
    )


def load(data: Data) -> str:
    """What the load tests' pictures show, in figures."""
    rows = []
    if "stress" in data:
        totals, settings = data["stress"]["totals"], data["stress"]["settings"]
        users = max(step["users"] for step in settings["steps"])
        rows.append(
            (
                f"stress, {users} users, {', '.join(settings['formats'])}",
                f"{totals['requests']} requests, {totals['failures']} failed, {totals['rps']:.1f} answers/s, p50 "
                f"{totals['p50_s']:.1f} s, p95 {totals['p95_s']:.1f} s, average batch {totals['avg_batch_size']:.1f}",
            )
        )
    if "study" in data:
        found = data["study"]["rows"]
        sizes, rates = ([row[key] for row in found] for key in ("batch_size", "rps"))
        rows.append(
            (
                f"study, {data['study']['settings']['users']} users, batch size {' / '.join(map(str, sizes))}",
                f"{' / '.join(f'{rate:.1f}' for rate in rates)} answers/s",
            )
        )
    if "capacity" in data:
        knee, settings = data["capacity"]["knee"], data["capacity"]["settings"]
        rate = "none" if knee["knee"] is None else f"{knee['knee']:.1f} requests/s"
        rows.append((f"capacity, p95 ≤ {settings['slo_p95_ms']:g} ms, {settings['format']}", rate))
    if not rows:
        return (
            f"{NOT_MEASURED} Until then the pictures are [an older machine's]"
            "(decisions/earlier-figures.md#the-load-tests)."
        )
    return "\n".join((_fill(f"On {machine_of(data)}:"), "", *_table(("what", "figure"), rows)))


BLOCKS: dict[str, Callable[[Data], str]] = {
    "machine": machine,
    "summary": summary,
    "ratios": ratios,
    "identical": identical,
    "scale": scale,
    "forward": forward,
    "agreement": agreement,
    "load": load,
}
"""What may stand between markers."""


def _fastest(data: Data, table: str, peers: Sequence[str], workload: str) -> tuple[str, float]:
    rates = {peer: _rate(data, table, peer, workload) or 0.0 for peer in peers}
    name = max(rates, key=lambda peer: rates[peer])
    return name, rates[name]


def _rate(data: Data, table: str, title: str, workload: str) -> float | None:
    rate: float | None = data["peers"]["images_per_s"].get(f"{table}:{title}:{workload}")
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
        columns[0].append(_three(statistics.median(rates) if rates else None))
        columns[1].append(f"{statistics.median(costs):.1f}" if costs else "–")
        columns[2].append(f"{statistics.median(latencies):.0f}" if latencies else "–")
    rate, cost, latency = (between.join(column) for column in columns)
    return (f"**{rate}**" if bold else rate), cost, latency


def _and(values: Sequence[float], form: str = ".1f") -> str:
    return " and ".join(f"{value:{form}}" for value in values)


def _ends(points: Sequence[dict[str, float]]) -> str:
    return f"{points[0]['p95_ms']:.0f} … {points[-1]['p95_ms']:.0f}"


def _three(value: float | None) -> str:
    """Three significant digits, never an exponent."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |".replace("|  |", "| |")
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |".replace("|  |", "| |")


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
