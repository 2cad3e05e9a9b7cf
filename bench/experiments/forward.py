"""Which forward is fastest on this machine: every backend × micro-batch × thread count, one fresh process each.

    python -m bench.experiments.forward [--only NAME ...] [--sizes 1 2 4 ...] [--threads 1 2] [--procs 1 2] [--out DIR]

Each backend is judged on images/s, on its largest difference from eager fp32, on what it costs to build and on the
memory it keeps. A backend whose package is missing is reported as skipped, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.machine import describe

Forward = Callable[[torch.Tensor], torch.Tensor]
"""[N, 3, H, W] float32, contiguous -> [N, classes] float32."""


def eager(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """Plain PyTorch, NCHW."""
    return model


def channels_last(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """PyTorch with channels-last weights and input."""
    model = model.to(memory_format=torch.channels_last)
    return lambda x: model(x.contiguous(memory_format=torch.channels_last))


def folded(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """Channels-last with every batch norm folded into its convolution."""
    from torch.fx.experimental.optimization import fuse

    return channels_last(fuse(model), example, num_threads)


def winograd(model: torch.nn.Module, example: torch.Tensor, num_threads: int, bf16: bool = False) -> Forward:
    """SmartBatch's own: folded, 3x3 convolutions in Winograd's basis."""
    import tempfile

    from smartbatch_worker.forward.compilers.winograd import accelerate

    with tempfile.TemporaryDirectory() as directory:
        return channels_last(accelerate(model, Path(directory), bf16), example, num_threads)


def winograd_bf16(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """The same with products of bf16."""
    return winograd(model, example, num_threads, bf16=True)


def torchscript(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """TorchScript, frozen and optimized for inference (oneDNN blocked layouts)."""
    traced = torch.jit.trace(model, example)  # type: ignore[no-untyped-call]
    optimized: Forward = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return optimized


def inductor(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """torch.compile with freezing, channels-last, one graph a shape."""
    import torch._inductor.config as inductor_config

    inductor_config.freezing = True
    return channels_last(torch.compile(model, dynamic=False), example, num_threads)  # type: ignore[arg-type]


def bf16(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """bfloat16 weights and activations, channels-last, batch norms folded where they are still there."""
    from torch.fx.experimental.optimization import fuse

    model = fuse(model) if type(model).__module__.startswith("torchvision") else model
    model = model.to(torch.bfloat16).to(memory_format=torch.channels_last)
    return lambda x: model(x.to(dtype=torch.bfloat16, memory_format=torch.channels_last)).float()


def inductor_bf16(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """bfloat16 through torch.compile with freezing."""
    import torch._inductor.config as inductor_config

    inductor_config.freezing = True
    return bf16(torch.compile(model.to(torch.bfloat16), dynamic=False), example, num_threads)  # type: ignore[arg-type]


def openvino(model: torch.nn.Module, example: torch.Tensor, num_threads: int, precision: str = "f32") -> Forward:
    """OpenVINO's runtime, dynamic batch, zero-copy input, synchronous request."""
    import openvino as ov

    shape = [-1, *example.shape[1:]]
    compiled = ov.Core().compile_model(
        ov.convert_model(model, example_input=example, input=[(shape, ov.Type.f32)]),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()

    def forward(x: torch.Tensor) -> torch.Tensor:
        request.infer([ov.Tensor(x.numpy(), shared_memory=True)], share_outputs=True)
        return torch.from_numpy(request.get_output_tensor().data)

    return forward


def openvino_bf16(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """OpenVINO told to compute in bfloat16."""
    return openvino(model, example, num_threads, "bf16")


def openvino_static(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """OpenVINO's runtime, one graph a shape (the example's batch)."""
    import openvino as ov

    converted = ov.convert_model(model, example_input=example, input=[(list(example.shape), ov.Type.f32)])
    compiled = ov.Core().compile_model(
        converted,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()

    def forward(x: torch.Tensor) -> torch.Tensor:
        request.infer([ov.Tensor(x.numpy(), shared_memory=True)], share_outputs=True)
        return torch.from_numpy(request.get_output_tensor().data)

    return forward


def openvino_compile(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """torch.compile(backend="openvino")."""

    config = {"INFERENCE_NUM_THREADS": num_threads, "PERFORMANCE_HINT": "LATENCY"}
    options: Any = {"device": "CPU", "config": config}
    compiled: Any = torch.compile(model, backend="openvino", dynamic=False, options=options)
    return compiled  # type: ignore[no-any-return]


def onnxruntime(model: torch.nn.Module, example: torch.Tensor, num_threads: int) -> Forward:
    """ONNX Runtime on the exported graph, dynamic batch."""
    import tempfile

    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        batch = torch.export.Dim("batch", min=1, max=1024)
        two = example.repeat(2, 1, 1, 1) if len(example) == 1 else example
        torch.onnx.export(model, (two,), str(path), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


BACKENDS: dict[str, Callable[[torch.nn.Module, torch.Tensor, int], Forward]] = {
    "eager": eager,
    "channels_last": channels_last,
    "folded": folded,
    "winograd": winograd,
    "torchscript": torchscript,
    "inductor": inductor,
    "openvino": openvino,
    "openvino_static": openvino_static,
    "openvino_compile": openvino_compile,
    "onnxruntime": onnxruntime,
    "bf16": bf16,
    "inductor_bf16": inductor_bf16,
    "openvino_bf16": openvino_bf16,
    "winograd_bf16": winograd_bf16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One backend at one thread count, in one process of `procs` running at once."""

    backend: str
    num_threads: int
    images_per_s: dict[int, float]
    """Median by micro-batch."""
    best_images_per_s: dict[int, float]
    """Fastest call by micro-batch: what an undisturbed core does."""
    max_abs_diff: float
    top1_agreement: float
    build_s: float
    """Building plus the first call, summed over all micro-batches."""
    rss_mb: int
    """Peak resident memory beyond that of the eager model."""


def measure(backend: str, num_threads: int, sizes: list[int], seconds: float, model_name: str) -> Result:
    """Time one backend in this process. Shapes are [size, 3, 224, 224]."""
    import torchvision
    from smartbatch_worker.process import heap

    heap.keep_large_blocks()  # as the handler does
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    model = torchvision.models.get_model(model_name, weights=None).eval()
    images = torch.randn(max(sizes), 3, 224, 224, generator=torch.Generator().manual_seed(1))
    medians, bests, diff, agree, build_s = {}, {}, 0.0, 1.0, 0.0
    with torch.inference_mode() if "compile" not in backend and "inductor" not in backend else torch.no_grad():
        expected = torch.cat([model(part) for part in torch.split(images, 8)])
        base_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        forward: Forward | None = None
        for size in sizes:
            batch = images[:size].contiguous()
            started = time.perf_counter()
            if forward is None or backend == "openvino_static":
                forward = BACKENDS[backend](model, batch, num_threads)
            got = forward(batch)
            build_s += time.perf_counter() - started
            diff = max(diff, float((got - expected[:size]).abs().max()))
            agree = min(agree, float((got.argmax(1) == expected[:size].argmax(1)).float().mean()))
            times: list[float] = []
            for _ in range(2):
                forward(batch)
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or len(times) < 3:
                started = time.perf_counter()
                forward(batch)
                times.append(time.perf_counter() - started)
            medians[size] = size / statistics.median(times)
            bests[size] = size / min(times)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Result(
        backend=backend,
        num_threads=num_threads,
        images_per_s=medians,
        best_images_per_s=bests,
        max_abs_diff=diff,
        top1_agreement=agree,
        build_s=build_s,
        rss_mb=(peak_kb - base_kb) // 1024,
    )


def run(backend: str, num_threads: int, procs: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Start `procs` fresh processes at once; the answer has one dict each, or one {"skipped": reason}."""
    command = [sys.executable, "-m", "bench.experiments.forward", "--one", backend, "--threads", str(num_threads)]
    command += ["--sizes", *map(str, args.sizes), "--seconds", str(args.seconds), "--model", args.model]
    env = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
    children = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(procs)
    ]
    answers: list[dict[str, Any]] = []
    for child in children:
        stdout, stderr = child.communicate()
        lines = [line for line in stdout.splitlines() if line.startswith("{")]
        reason = (stderr.strip().splitlines() or [f"exit {child.returncode}"])[-1]
        answers.append(json.loads(lines[-1]) if lines else {"skipped": reason})
    return answers


def row(backend: str, num_threads: int, procs: int, answers: list[dict[str, Any]], sizes: list[int]) -> str:
    """One Markdown line: images/s summed over the processes, median (fastest)."""
    head = f"| {backend} | {procs} × {num_threads} |"
    for answer in answers:
        if "skipped" in answer:
            return f"{head} skipped: {answer['skipped'][:160]}" + " |" * (len(sizes) + 3)
    medians, bests = (
        [sum(answer[column][str(size)] for answer in answers) for size in sizes]
        for column in ("images_per_s", "best_images_per_s")
    )
    cells = [f"{median:.0f} ({best:.0f})" for median, best in zip(medians, bests, strict=True)]
    first = answers[0]
    tail = f"{first['max_abs_diff']:.1e} | {first['build_s']:.1f} | {first['rss_mb']} |"
    return head + " " + " | ".join(cells) + " | " + tail


def main() -> None:
    """Measure all that was asked for, printing a Markdown table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--procs", nargs="+", type=int, default=[1], help="processes at once")
    parser.add_argument("--seconds", type=float, default=1.0, help="per micro-batch")
    parser.add_argument("--model", default="resnet18", help="a torchvision builder; weights are random, seed 0")
    parser.add_argument("--out", type=Path, help="also write forward.md and forward.json here")
    parser.add_argument("--one", choices=list(BACKENDS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        import dataclasses

        result = measure(args.one, args.threads[0], args.sizes, args.seconds, args.model)
        print(json.dumps(dataclasses.asdict(result)), flush=True)
        return
    header = "| backend | procs × threads | " + " | ".join(f"{s}" for s in args.sizes)
    lines = [header + " | max abs diff | build s | +MB |", "|" + " --- |" * (len(args.sizes) + 5)]
    print("\n".join(lines), flush=True)
    found: dict[str, Any] = {"machine": describe(), "model": args.model, "sizes": args.sizes, "rows": []}
    for procs in args.procs:
        for num_threads in args.threads:
            for backend in args.only:
                answers = run(backend, num_threads, procs, args)
                lines.append(row(backend, num_threads, procs, answers, args.sizes))
                found["rows"].append(
                    {"backend": backend, "procs": procs, "num_threads": num_threads, "answers": answers}
                )
                print(lines[-1], flush=True)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "forward.md").write_text("\n".join(lines) + "\n")
        (args.out / "forward.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
