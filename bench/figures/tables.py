"""Markdown of what was measured: one function a block, which says so where its figures are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.figures.data import RUN, Data, machine_of
from bench.figures.peer_tables import identical, ratios, summary
from bench.figures.words import NOT_MEASURED, fill, markdown_table, three
from bench.scale import TITLES as SWEEPS

IDLE_GOAL_MS = 3.0
"""Of a lone client, beyond delay and forward."""

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
    return fill(f"One machine: **{words}**; {whence}, the load generator on the same cores.")


def scale(data: Data) -> str:
    """Throughput as the work grows, memory, and what a lone client pays."""
    if "scale" not in data:
        return NOT_MEASURED
    found = data["scale"]
    rows = [
        (title, " · ".join(f"{p['x']}: {three(p['items_per_s'])}" for p in found[name]), _ends(found[name]))
        for name, title in SWEEPS.items()
        if found.get(name)
    ]
    lines = list(markdown_table(("varied", "value: items/s", "p95 ms, first to last"), rows))
    if found.get("idle"):
        delays, medians, forwards, beyond = (
            [point[key] for point in found["idle"]] for key in ("delay_ms", "p50_ms", "forward_ms", "beyond_ms")
        )
        verdict = "met" if max(beyond) <= IDLE_GOAL_MS else "**missed**"
        lines += [
            "",
            fill(
                f"- **A lone client** at a delay of {_and(delays, 'd')} ms: p50 {_and(medians)} ms, of that the "
                f"forward {_and(forwards)}, and {_and(beyond)} beyond both (goal: {IDLE_GOAL_MS:g}, {verdict}).",
                "  ",
            ),
        ]
    if found.get("soak"):
        first, last = found["soak"][0], found["soak"][-1]
        most = max(sample["frontend_mb"] for sample in found["soak"])
        lines.append(
            fill(
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
            cells = (*map(three, rates), f"{answer['max_abs_diff']:.0e}", f"{answer['build_s']:.0f} s")
            rows.append((list(FORWARDS).index(row["backend"]), FORWARDS[row["backend"]], cells))
    head = ("forward", *sizes, "largest difference from eager", "to build")
    return "\n".join(markdown_table(head, [(title, *cells) for _, title, cells in sorted(rows)]))


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
    return fill(
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
    return "\n".join((fill(f"On {machine_of(data)}:"), "", *markdown_table(("what", "figure"), rows)))


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


def _and(values: Sequence[float], form: str = ".1f") -> str:
    return " and ".join(f"{value:{form}}" for value in values)


def _ends(points: Sequence[dict[str, float]]) -> str:
    return f"{points[0]['p95_ms']:.0f} … {points[-1]['p95_ms']:.0f}"
