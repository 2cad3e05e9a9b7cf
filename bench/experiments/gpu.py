"""Batching on a GPU: batch 32 against batch 1 through the handler, and the handler against the bare forward loop.

    python -m bench.experiments.gpu [--device auto|cuda|cpu] [--model resnet18] [--precision fp16] [--batch 32]
                                    [--seconds 3]

Runs the handler in this process, with uint8 .npy bodies, so that it needs no Java. On CUDA the loop's time is the
device's own, by events. Without a GPU the same code runs on the CPU, with small limits, so that it cannot rot.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml

from bench.identical import Worker
from bench.images import uint8_npy


def make_model_dir(folder: Path, model: str, precision: str, compiler: str, device: str, **keys: str) -> Path:
    """An unpacked archive with random weights, without building one."""
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.get_model(model, weights=None)
    for parameter in module.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)  # ViT's last layer begins as zeros: all answers would be alike
    torch.save(module.state_dict(), folder / "weights.pth")
    section = {"model": model, "weights": "weights.pth", "weights_source": "random", "precision": precision}
    section |= {"compile": compiler, "device": device, "output": "topk", **keys}
    (folder / "model-config.yaml").write_text(yaml.safe_dump({"handler": section}))
    return folder


def rate(run: Callable[[], int], seconds: float) -> float:
    """Items a second by the wall clock; `run` returns how many it answered."""
    for _ in range(3):
        run()
    num_items, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        num_items += run()
    return num_items / took


def device_rate(forward: Callable[[torch.Tensor], object], batch: torch.Tensor, seconds: float) -> float:
    """Items a second of the forward alone: CUDA events around a queue of launches, else the wall clock."""
    if not batch.is_cuda:

        def run() -> int:
            forward(batch)
            return len(batch)

        return rate(run, seconds)
    for _ in range(5):
        forward(batch)
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    num_items, elapsed_s = 0, 0.0
    while elapsed_s < seconds:
        begin.record()
        for _ in range(20):
            forward(batch)
        end.record()
        end.synchronize()
        elapsed_s += begin.elapsed_time(end) / 1000
        num_items += 20 * len(batch)
    return num_items / elapsed_s


def handler_rates(worker: Worker, bodies: Sequence[bytes], seconds: float) -> tuple[float, float]:
    """Items a second through the handler: all bodies as one batch, and one by one."""
    batched = rate(lambda: len(worker.answer(bodies)), seconds)
    return batched, rate(lambda: len(worker.answer(bodies[:1])), seconds)


def bare_rate(worker: Worker, most: int, side: int, seconds: float) -> tuple[int, float]:
    """The handler's micro-batch for pictures of `side` pixels, and items a second of its forward alone."""
    model = worker.handler.model
    size = min(most, model.micro_batch_size((3, side, side)))
    pixels = torch.randn((size, 3, side, side)).to(model.device).contiguous(memory_format=torch.channels_last)
    with model.ready():
        return size, device_rate(model.forward, pixels, seconds)


def stage_shares(worker: Worker, bodies: Sequence[bytes], num_batches: int = 20) -> dict[str, float]:
    """Seconds a batch by stage, from the handler's own timers."""
    from smartbatch_worker.contract import metrics as metric_names
    from smartbatch_worker.torchserve import telemetry

    totals: dict[str, float] = {}
    original = worker.handler.telemetry.add

    def add(values: object) -> None:
        assert isinstance(values, dict)
        for (name, labels), value in values.items():
            if name == metric_names.STAGE_SECONDS:
                stage = dict(labels)["stage"]
                totals[stage] = totals.get(stage, 0.0) + value

    assert isinstance(worker.handler.telemetry, telemetry.Telemetry)
    worker.handler.telemetry.add = add  # type: ignore[method-assign]
    try:
        for _ in range(num_batches):
            worker.answer(bodies)
    finally:
        worker.handler.telemetry.add = original  # type: ignore[method-assign]
    return {stage: round(seconds / num_batches * 1000, 3) for stage, seconds in totals.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    parser.add_argument("--model", default="resnet18", help="a torchvision builder; random weights")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--compile", default="off", help="the handler's compile key")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--out", type=Path, help="also write gpu.json here")
    args = parser.parse_args(argv)
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted if args.device == "auto" else args.device)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        model_dir = make_model_dir(Path(scratch), args.model, args.precision, args.compile, str(device))
        worker = Worker(model_dir, args.batch, torch.get_num_threads(), 0 if device.type == "cuda" else None)
        bodies = [uint8_npy(args.side, seed) for seed in range(args.batch)]
        batched, single = handler_rates(worker, bodies, args.seconds)
        size, loop = bare_rate(worker, args.batch, args.side, args.seconds)
        result = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "model": args.model,
            "precision": args.precision,
            "compile": args.compile,
            "batch": args.batch,
            "micro_batch": size,
            "handler_batched_images_per_s": round(batched, 2),
            "handler_single_images_per_s": round(single, 2),
            "bare_forward_images_per_s": round(loop, 2),
            "ratios": {
                "batched_over_single": round(batched / single, 3),
                "handler_over_bare_forward": round(batched / loop, 3),
            },
            "handler_stage_ms_per_batch": stage_shares(worker, bodies, num_batches=3 if device.type == "cpu" else 20),
        }
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
