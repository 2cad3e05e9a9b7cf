"""What a precision or a compiler does to the answers: top-1 agreement with eager fp32 over seeded images.

    python -m bench.experiments.agreement [--images 1000] [--batch 8] [--only bf16 ...] [--out bench/results]

Every image has a class of its own (`bench.weights`), so a top class that moves is seen; a random network would name
the same class for all. Runs the handler's own forward, one thread, and saves agreement.json after each variant.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward.managed import ManagedModel

from bench.images import jpeg
from bench.machine import describe
from bench.servers.documented import to_tensor
from bench.weights import make_weights

SIDE = 224
VARIANTS = {
    "winograd": ("fp32", "winograd"),
    "folded": ("fp32", "off"),
    "bf16": ("bf16", "off"),
    "winograd_bf16": ("bf16", "winograd"),
    "openvino_bf16": ("bf16", "openvino"),
}
"""Precision and compiler of each. OpenVINO is an extra; bench/setup.sh installs it."""


def _installed() -> list[str]:
    has_openvino = importlib.util.find_spec("openvino") is not None
    return [name for name, (_, compiler) in VARIANTS.items() if compiler != "openvino" or has_openvino]


def answers(model_dir: Path, precision: str, compiler: str, images: torch.Tensor, batch: int) -> torch.Tensor:
    """[N, classes] float32, as a worker with these settings answers."""
    config = WorkerConfig(
        model="resnet18",
        weights="weights.pth",
        precision=precision,
        compile=compiler,
        input_shape=(3, SIDE, SIDE),
        micro_batch=batch,
        load="eager",  # the way that is taken in the end, from the first answer on
    )
    model = ManagedModel(config, model_dir, model_dir, torch.device("cpu"), batch, lambda seconds: None, lambda: None)
    outputs = []
    began = time.monotonic()
    with model.ready(), torch.inference_mode():
        for start in range(0, len(images), batch):
            part = images[start : start + batch].contiguous(memory_format=torch.channels_last)
            outputs.append(model.forward(part).float().clone())
            print(f"\r{precision} {compiler}: {start + len(part)} of {len(images)}", end="", file=sys.stderr)
    print(f", {time.monotonic() - began:.0f} s", file=sys.stderr)
    return torch.cat(outputs)


def compare(expected: torch.Tensor, actual: torch.Tensor) -> dict[str, float]:
    """How far apart two sets of answers are."""
    return {
        "top1_agreement": float((expected.argmax(1) == actual.argmax(1)).double().mean()),
        "largest_difference": float((expected - actual).abs().max()),
        "largest_answer": float(expected.abs().max()),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and write agreement.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=_installed())
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"machine": describe(), "images": args.images, "side": SIDE, "variants": {}}
    with tempfile.TemporaryDirectory() as folder:
        files = [jpeg(SIDE, SIDE, seed) for seed in range(args.images)]
        make_weights(files, Path(folder) / "weights.pth")
        images = torch.stack([to_tensor(file) for file in files])
        expected = eager(Path(folder) / "weights.pth", images, args.batch)
        for name in args.only:
            precision, compiler = VARIANTS[name]
            actual = answers(Path(folder), precision, compiler, images, args.batch)
            result["variants"][name] = compare(expected, actual)
            (args.out / "agreement.json").write_text(json.dumps(result, indent=1) + "\n")
            print(name, result["variants"][name])
    return 0


def eager(weights: Path, images: torch.Tensor, batch: int) -> torch.Tensor:
    """[N, classes]: what torchvision's own code answers in fp32, contiguous."""
    import torchvision

    model = torchvision.models.resnet18(weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        return torch.cat([model.eval()(part) for part in torch.split(images, batch)])


if __name__ == "__main__":
    sys.exit(main())
