"""SmartBatch's forward of one model beside what library compilers make of it: in one process, in turns, on one thread.

    bench/.venv/bin/python -m bench.experiments.compilers [--model swin_t] [--sizes 1 4 8 16] [--rounds 5]

SmartBatch takes its fastest way and its micro-batch by itself, once with OpenVINO and ONNX Runtime to choose from and
once as it is installed without; every other one is given each of the sizes, and its best counts. Prints one line of
JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from smartbatch_worker.contract import environment

from bench.experiments.forward import BACKENDS
from bench.experiments.gpu import make_model_dir
from bench.identical import Worker
from bench.progress import say

Run = Callable[[torch.Tensor], Any]
OWN, OWN_ALONE = "SmartBatch", "SmartBatch without library compilers"
LIBRARIES = ("inductor", "openvino", "onnxruntime", "torchscript")
"""Keys of BACKENDS."""
SIDE, LARGEST = 224, 32
TOLERANCE = 1e-3
"""Of the largest answer: what differs by more computes something else."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of computing, for one size."""

    name: str
    size: int
    run: Run
    way: str = ""
    """What SmartBatch took."""


@contextmanager
def alone() -> Iterator[None]:
    """For the length of the block, as if no library compiler were installed."""
    before = {name: sys.modules.get(name) for name in ("openvino", "onnxruntime")}
    sys.modules.update(dict.fromkeys(before))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def own(model_dir: Path, largest: int) -> tuple[Worker, Callable[[Any], Any], str]:
    """The handler, its forward, chosen and calibrated as a worker does, and how that computes."""
    worker = Worker(model_dir, largest, 1)
    model = worker.handler.model

    def run(batch: Any) -> Any:
        with model.ready():
            return model.forward(batch)

    return worker, run, f"{model.compiler} {model.precision}"


def contestant(name: str, model_dir: Path) -> Contestant:
    """SmartBatch, of images."""
    worker, run, way = own(model_dir, LARGEST)
    return Contestant(name, worker.handler.model.micro_batch_size((3, SIDE, SIDE)), run, way)


def of_library(name: str, module: torch.nn.Module, images: torch.Tensor) -> Run:
    """A compiler's forward, for this many images or for any number."""
    # Frozen weights are not traced in inference mode.
    mode = torch.no_grad if name == "inductor" else torch.inference_mode
    with mode():
        forward = BACKENDS[name](copy.deepcopy(module), images, 1)
        forward(images)

    def run(batch: torch.Tensor) -> Any:
        with mode():
            return forward(batch)

    return run


def contestants(model: str, sizes: Sequence[int], folder: Path) -> tuple[list[Contestant], dict[str, str]]:
    """All that can be built, each checked against eager PyTorch; and why others cannot."""
    import torchvision

    model_dir = make_model_dir(folder, model, "fp32", "auto", "cpu")
    module = torchvision.models.get_model(model, weights=None).eval()
    module.load_state_dict(torch.load(model_dir / "weights.pth", weights_only=True))
    images = torch.randn(max(*sizes, LARGEST), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = module(images[:2])
    found, failed = [], {}
    say(f"{model}: SmartBatch")
    found.append(contestant(OWN, model_dir))
    with alone():
        found.append(contestant(OWN_ALONE, model_dir))
    for name in LIBRARIES:
        say(f"{model}: {name}")
        try:
            run = None
            for size in sizes:
                if run is None or name == "inductor":  # which is built for one number of images
                    run = of_library(name, module, images[:size])
                found.append(Contestant(name, size, run))
        except Exception as error:  # a compiler may fail in any way; the others are measured
            failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
            say(f"  {failed[name]}")
    right = []
    for one in found:
        batch = images[: one.size]
        answer = one.run(batch)[:2]
        difference = float((answer - expected[: len(answer)]).abs().max() / expected.abs().max())
        if difference <= TOLERANCE:
            right.append(one)
        else:
            failed[f"{one.name} of {one.size}"] = f"differs by {difference:.1e} of the largest answer"
    return right, failed


def measure(model: str, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Images a second of each, by the wall clock: medians over the rounds, in which all take turns."""
    torch.set_num_threads(1)
    images = torch.randn(max(*sizes, LARGEST), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        (cache := Path(scratch) / "cache").mkdir(mode=0o700)
        os.environ[environment.CACHE_DIR] = str(cache)  # what is chosen is measured now
        all_of_them, failed = contestants(model, sizes, Path(scratch))
        times: dict[tuple[str, int], list[float]] = {(one.name, one.size): [] for one in all_of_them}
        for number in range(rounds + 1):
            say(f"{model}: round {number}/{rounds}")
            for one in all_of_them:
                batch = images[: one.size].contiguous()
                started = time.perf_counter()
                one.run(batch)
                if number:  # the first sets things up
                    times[one.name, one.size].append(time.perf_counter() - started)
    rates: dict[str, dict[int, float]] = {}
    for (name, size), taken in times.items():
        rates.setdefault(name, {})[size] = round(size / statistics.median(taken), 2)
    best = {name: max(by_size.values()) for name, by_size in rates.items()}
    libraries = {name: best[name] for name in LIBRARIES if name in best}
    fastest = max(libraries, key=libraries.__getitem__)
    return {
        "model": model,
        "images_per_s": rates,
        "ways": {one.name: one.way for one in all_of_them if one.way},
        "failed": failed,
        "best_library": fastest,
        "ratios": {
            name: round(rate / libraries[fastest], 3) for name, rate in best.items() if name in (OWN, OWN_ALONE)
        },
        "seconds": {f"{name} of {size}": taken for (name, size), taken in times.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="a torchvision builder; random weights, seed 0")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 4, 8, 16], help="images in one forward")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    print(json.dumps(measure(args.model, args.sizes, args.rounds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
