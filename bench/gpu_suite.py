"""All that is to be known of a GPU, in one command of at most eight minutes: the first thing to run where there is one.

    python -m bench.gpu_suite [--out bench/results/gpu] [--budget-s 450] [--only forward decode handler slots] [--quick]

Results are written as they come, a line of JSON each (gpu_suite.jsonl), so that a run which is cut off leaves what it
had; at the end gpu_suite.png. What the budget left no time for has a line that says so. Weights are random and seeded.

    forward   the bare forward: ResNet-18 and -50, precision, eager / CUDA graphs / inductor, batch 1 to 256
    decode    JPEG to a batch: CPU threads against nvJPEG
    handler   the handler in this process, fed TorchServe's rows: batched, one by one, against its bare forward
    slots     decode and copy of the next batch while one is computed: one, two and three slots

Without a GPU the same code runs on the CPU with `--quick`, so that it cannot rot.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow.decode import decode as decode_body
from smartbatch_worker.flow.decoder_pool import DecoderPool

from bench import machine
from bench.experiments.gpu import bare_rate, device_rate, handler_rates, make_model_dir, rate, stage_shares
from bench.experiments.slots import Slots
from bench.identical import Worker
from bench.images import SIZES, jpeg, uint8_npy

Row = dict[str, Any]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MEAN, SCALE = 0.45, 0.225
"""About ImageNet's; speed does not depend on them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how long."""

    device: torch.device
    models: Sequence[str]
    batches: Sequence[int]
    seconds: float
    side: int
    ends: float
    """By time.monotonic: what would begin later is left out."""

    def has_time(self, needs_s: float) -> bool:
        """Whether something that takes so long may begin."""
        return time.monotonic() + needs_s < self.ends


def versions(plan: Plan) -> Iterator[Row]:
    """Of everything that figures depend on."""
    found: Row = {"part": "machine", **machine.describe()}
    if plan.device.type == "cuda":
        properties = torch.cuda.get_device_properties(plan.device)
        found |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / 2**30, 1)}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
        found |= {"multiprocessors": properties.multi_processor_count}
    yield found


def network(model: str, device: torch.device, precision: str) -> torch.nn.Module:
    """A torchvision model with seeded weights, channels-last."""
    import torchvision

    torch.manual_seed(0)
    module: torch.nn.Module = torchvision.models.get_model(model, weights=None).eval()
    return module.to(device, PRECISIONS[precision]).to(memory_format=torch.channels_last)


def recorded(module: torch.nn.Module, example: torch.Tensor) -> Callable[[torch.Tensor], object]:
    """The forward as a CUDA graph: what is replayed reads `example`'s memory."""
    side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            module(example)
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(example)
    return lambda batch: graph.replay()


def forward(plan: Plan) -> Iterator[Row]:
    """Images a second of the forward alone, the device's own time; the largest models and batches that matter first."""
    is_cuda = plan.device.type == "cuda"
    ways = ("eager", "graphs", "inductor") if is_cuda else ("eager",)
    for model, precision, way in itertools.product(
        plan.models, ("bf16", "fp16", "fp32") if is_cuda else ("fp32",), ways
    ):
        row = {"part": "forward", "model": model, "precision": precision, "way": way}
        if not plan.has_time(60 if way == "inductor" else 5):
            yield {**row, "left_out": "no time was left"}
            continue
        module = network(model, plan.device, precision)
        called = torch.compile(module, dynamic=False) if way == "inductor" else module
        # Each size is compiled anew; two of them tell what it gains.
        for batch in plan.batches if way != "inductor" else (1, 32):
            shape = (batch, 3, plan.side, plan.side)
            example = torch.randn(shape, device=plan.device, dtype=PRECISIONS[precision])
            example = example.contiguous(memory_format=torch.channels_last)
            try:
                with torch.inference_mode():
                    run = recorded(module, example) if way == "graphs" else called
                    yield {**row, "batch": batch, "images_per_s": round(device_rate(run, example, plan.seconds), 1)}
            except (RuntimeError, torch.OutOfMemoryError) as error:
                yield {**row, "batch": batch, "failed": str(error).splitlines()[0][:200]}


def decode(plan: Plan) -> Iterator[Row]:
    """JPEGs of a common size: the handler's way on threads of the CPU, to what models take; then nvJPEG, to RGB."""
    bodies = [jpeg(*size, seed) for seed, size in enumerate(SIZES)] * 8
    config = WorkerConfig.resolve({}, {})
    for threads in sorted({1, 4, os.cpu_count() or 1}):
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:

            def on_threads(pool: ThreadPoolExecutor = pool) -> int:
                return sum(1 for _ in pool.map(lambda body: decode_body(body, "", config), bodies))

            row = {"part": "decode", "way": "the handler's, on the CPU", "threads": threads}
            yield {**row, "images_per_s": round(rate(on_threads, plan.seconds))}
    if plan.device.type != "cuda":
        return
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(body), dtype=torch.uint8) for body in bodies]
    for batch in (8, 32, 64):

        def on_gpu(batch: int = batch) -> int:
            with warnings.catch_warnings():  # torchvision says that its decoders will go
                warnings.simplefilter("ignore", DeprecationWarning)
                decode_jpeg(encoded[:batch], mode=ImageReadMode.RGB, device=plan.device)
            torch.cuda.synchronize()
            return batch

        row = {"part": "decode", "way": "nvJPEG", "batch": batch}
        try:
            yield {**row, "images_per_s": round(rate(on_gpu, plan.seconds))}
        except RuntimeError as error:  # torchvision may be built without it
            yield {**row, "failed": str(error).splitlines()[0][:200]}


def handler(plan: Plan) -> Iterator[Row]:
    """The handler as TorchServe calls it, with tensors and with JPEGs, against the forward that it runs."""
    is_cuda = plan.device.type == "cuda"
    most = max(plan.batches)
    for model, (precision, compiler) in itertools.product(
        plan.models, (("bf16", "auto"), ("bf16", "off")) if is_cuda else (("fp32", "off"),)
    ):
        row = {"part": "handler", "model": model, "precision": precision, "compile": compiler}
        if not plan.has_time(30):
            yield {**row, "left_out": "no time was left"}
            continue
        with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
            model_dir = make_model_dir(
                Path(scratch), model, precision, compiler, str(plan.device), image_decoder="gpu" if is_cuda else "cpu"
            )
            worker = Worker(model_dir, most, torch.get_num_threads(), 0 if is_cuda else None)
            pictures = [jpeg(*SIZES[seed % len(SIZES)], seed % len(SIZES)) for seed in range(most)]
            kinds = {"uint8 .npy": [uint8_npy(plan.side, seed) for seed in range(most)], "JPEG": pictures}
            if is_cuda:
                kinds = {"JPEG, decoded on the GPU": pictures, **kinds}
            for kind, bodies in kinds.items():
                batched, single = handler_rates(worker, bodies, plan.seconds)
                yield {
                    **row,
                    "body": kind,
                    "batch": most,
                    "images_per_s": round(batched, 1),
                    "one_by_one_images_per_s": round(single, 1),
                    "batched_over_single": round(batched / single, 3),
                    "stage_ms_per_batch": stage_shares(worker, bodies, num_batches=10 if is_cuda else 2),
                }
                worker.handler._decoders = DecoderPool()  # of the CPU alone from here on
            size, bare = bare_rate(worker, most, plan.side, plan.seconds)
            yield {**row, "body": "none: the bare forward", "batch": size, "images_per_s": round(bare, 1)}


def slots(plan: Plan) -> Iterator[Row]:
    """JPEGs decoded by all cores into pinned buffers, copied and computed: does overlapping these pay."""
    batch, threads = min(64, max(plan.batches)), os.cpu_count() or 1
    bodies = [jpeg(375, 500, seed % 8) for seed in range(batch)]
    config = WorkerConfig.resolve({"image_resize": plan.side, "image_crop": plan.side}, {})
    precision = "bf16" if plan.device.type == "cuda" else "fp32"
    for model in plan.models:
        if not plan.has_time(20):
            yield {"part": "slots", "model": model, "left_out": "no time was left"}
            continue
        module = network(model, plan.device, precision)
        with ThreadPoolExecutor(threads) as pool:

            def load(number: int, host: torch.Tensor, pool: ThreadPoolExecutor = pool) -> int:
                def one(place: int) -> None:
                    host[place] = decode_body(bodies[place], "", config).items[0]

                return sum(1 for _ in pool.map(one, range(batch)))

            def answer(pixels: torch.Tensor, module: torch.nn.Module = module) -> torch.Tensor:
                numbers = pixels.to(PRECISIONS[precision]).div_(255).sub_(MEAN).div_(SCALE)
                answers: torch.Tensor = module(numbers.contiguous(memory_format=torch.channels_last))
                return answers.float()

            for num in (1, 2, 3):
                shape = (batch, 3, plan.side, plan.side)
                line: Slots[int] = Slots(num, shape, torch.uint8, plan.device, load, answer)
                for _ in line.run(range(2)):  # the first ones are slower
                    pass
                started = time.perf_counter()
                num_batches = sum(1 for _ in line.run(_until(started + plan.seconds)))
                took = time.perf_counter() - started
                row = {"part": "slots", "model": model, "precision": precision, "slots": num, "batch": batch}
                yield {**row, "images_per_s": round(num_batches * batch / took, 1)}


def _until(ends: float) -> Iterator[int]:
    """Numbers, one at least, until a time by time.perf_counter()."""
    for number in itertools.count():
        yield number
        if time.perf_counter() >= ends:
            return


PARTS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "handler": handler,
    "slots": slots,
    "decode": decode,
    "forward": forward,
}
"""What matters most comes first: the budget may end before the rest."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Images a second: the bare forward by batch, and what of it the handler leaves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (axes, bars) = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        if row["part"] == "forward" and "images_per_s" in row:
            place = lines.setdefault((f"{row['model']} {row['precision']}", row["way"]), [])
            place.append((row["batch"], row["images_per_s"]))
    colours = {network: f"C{number}" for number, network in enumerate(dict.fromkeys(name for name, _ in lines))}
    styles = {"eager": "--", "graphs": "-", "inductor": ":"}
    for (network, way), points in lines.items():
        places = zip(*points, strict=True)
        axes.plot(*places, styles[way], marker=".", color=colours[network], label=f"{network} {way}")
    axes.set(xlabel="batch", ylabel="images/s", xscale="log", yscale="log", title="the bare forward")
    if lines:
        axes.legend(fontsize="x-small", ncols=2)
    handlers = [row for row in rows if row["part"] == "handler" and "images_per_s" in row]
    names = [f"{row['model']} {row['precision']}, compile: {row['compile']}\n{row['body']}" for row in handlers]
    drawn = bars.barh(names, [row["images_per_s"] for row in handlers])
    bars.bar_label(drawn, fmt="{:,.0f}", fontsize="x-small")
    bars.tick_params("y", labelsize="x-small")
    bars.invert_yaxis()
    bars.set(xlabel="images/s", title="one worker's handler")
    for each in (axes, bars):
        each.grid(alpha=0.3)
    figure.suptitle(next(iter(rows)).get("gpu", "on the CPU"))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure within the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu"))
    parser.add_argument("--budget-s", type=float, default=450.0, help="nothing begins that would end later")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="smallest sizes, for a machine without a GPU")
    args = parser.parse_args(argv)
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    plan = Plan(
        device=torch.device(wanted if args.device == "auto" else args.device),
        models=("resnet18",) if args.quick else ("resnet50", "resnet18"),
        batches=(1, 2) if args.quick else (1, 8, 32, 64, 128, 256),
        seconds=0.02 if args.quick else 1.0,
        side=32 if args.quick else 224,
        ends=time.monotonic() + args.budget_s,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with (args.out / "gpu_suite.jsonl").open("w", encoding="utf-8") as file:
        for part in (versions, *(PARTS[name] for name in PARTS if name in args.only)):
            for row in part(plan):
                rows.append(row)
                print(json.dumps(row), file=file, flush=True)
                print(json.dumps(row), flush=True)
    if any(row["part"] in ("forward", "handler") and "images_per_s" in row for row in rows):
        draw(rows, args.out / "gpu_suite.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
