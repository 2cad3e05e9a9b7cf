"""Models other than ResNet18: SmartBatch beside TorchServe's own handler, and beside the best library compiler.

    bench/.venv/bin/python -m bench.other_models [--models NAME ...] [--rounds 3] [--out bench/results]

Two servers run from the first model to the last, SmartBatch as `smartbatch serve` starts it and TorchServe on its own
configuration; each model is registered in both, both must give eager PyTorch's answers, and then both are measured in
turns. "bert" is a small one of seeded weights, asked with texts of log-normal length. Then each model's forward, in
processes of their own (`bench.experiments.compilers` and `text_compilers`). Writes other_models.json, after each model,
and .png.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings

from bench import images, processes, texts
from bench.backends import TorchServe
from bench.experiments.compilers import OWN as OWN_FORWARD
from bench.experiments.compilers import OWN_ALONE as ALONE
from bench.load import Body, run_until_idle, run_until_steady, warm_up_jvm
from bench.machine import describe
from bench.progress import say
from bench.servers.documented import to_tensor
from bench.weights import make_weights, reference_classes
from bench.work import Work, stock_archive, top_class

NUM_IMAGES = 8
CONNECTIONS = 64
JVM_LONGEST_S = 120.0
STOCK_SOURCE = """
import torchvision


class ImageClassifier:
    def __new__(cls):
        return torchvision.models.get_model("{name}", weights=None)
"""
LEAD = 0.05
"""Of the right class over the second: less could be rounding."""


@dataclass(frozen=True, slots=True)
class Model:
    """One to be served."""

    name: str
    seconds: float = 8.0
    """Of a measurement: several batches."""


MODELS = (
    Model("resnet18"),
    Model("mobilenet_v3_large"),
    Model("efficientnet_b0"),
    Model("swin_t", 20.0),
    Model("vit_b_16", 40.0),
    Model(texts.NAME),
)
OWN, STOCK = "smartbatch", "stock"


class Served:
    """Two servers with the models that were made for them.

    Args:
        folder: for archives and run folders.
    """

    def __init__(self, folder: Path) -> None:
        self.work = Work(folder)
        self.work.store.mkdir(parents=True, exist_ok=True)
        self.servers = {OWN: TorchServe(OWN, self.work, True, {}), STOCK: TorchServe(STOCK, self.work, False, {})}
        self._is_warm = False
        for server in self.servers.values():
            processes.pause(server.pid)

    def stop(self) -> None:
        """End both."""
        for server in self.servers.values():
            processes.resume(server.pid)
            server.stop()

    def measure(self, model: Model, rounds: int) -> dict[str, Any]:
        """Requests a second of both, medians of rounds in turns."""
        body, expected = self._make(model.name)
        samples: dict[str, list[dict[str, Any]]] = {}
        for key, server in self.servers.items():
            say(f"{model.name}: {key}")
            processes.resume(server.pid)
            # One worker of TorchServe's own: two would run two threads each on two cores, which is slower.
            server.register(model.name, f"{key}-{model.name}.mar", 0 if key == OWN else 1)
            check(server.url(model.name), body, expected)
            if key == OWN:
                server.settle(model.name)
            if not self._is_warm:
                say("  " + warm_up_jvm(server.url(model.name), body, CONNECTIONS, server.pid, JVM_LONGEST_S))
            else:
                run_until_idle(server.url(model.name), body, CONNECTIONS, model.seconds, server.pid)
            processes.pause(server.pid)
            samples[key] = []
        self._is_warm = True
        for number in range(rounds):
            for key, server in sorted(self.servers.items(), reverse=bool(number % 2)):
                processes.resume(server.pid)
                result = run_until_steady(server.url(model.name), body, CONNECTIONS, model.seconds, server.pid)
                processes.pause(server.pid)
                say(f"{model.name}: round {number + 1}/{rounds}, {key}: {result.requests_per_s:.1f}/s")
                samples[key].append(asdict(result))
        choices: dict[str, Any] = {}
        for key, server in self.servers.items():
            processes.resume(server.pid)
            if key == OWN:
                choices = server.choices(model.name)
            server.unregister(model.name)
            processes.pause(server.pid)
        rates = {key: statistics.median(run["requests_per_s"] for run in taken) for key, taken in samples.items()}
        return {
            "requests_per_s": {key: round(rate, 2) for key, rate in rates.items()},
            "ratio": round(rates[OWN] / rates[STOCK], 3),
            "choices": choices,
            "samples": samples,
        }

    def _make(self, name: str) -> tuple[Body, list[int]]:
        """Archives for both servers; bodies, and the class of each."""
        store = self.work.store
        if name == texts.NAME:
            return texts.make(self.work.folder, store / f"{OWN}-{name}.mar", store / f"{STOCK}-{name}.mar")
        photos = [images.jpeg(375, 500, seed) for seed in range(NUM_IMAGES)]
        weights = self.work.folder / f"{name}.pth"
        make_weights(photos, weights, name)
        expected, lead = reference_classes(torch.stack([to_tensor(photo) for photo in photos]), weights, name)
        if lead < LEAD:
            raise ValueError(f"{name}: the images are too alike to judge answers by: lead {lead:.3f}")
        build_archive(ArchiveSettings(model=name, model_path=weights, name=f"{OWN}-{name}", output=store))
        stock_archive(store / f"{STOCK}-{name}.mar", weights, STOCK_SOURCE.format(name=name))
        return Body("image/jpeg", tuple(photos)), expected


def check(url: str, body: Body, expected: Sequence[int]) -> None:
    """Ask with every body once.

    Raises:
        RuntimeError: another status than 200, or another class than eager PyTorch's.
    """
    for payload, wanted in zip(body.payloads, expected, strict=True):
        reply = requests.post(url, data=payload, headers={"Content-Type": body.content_type}, timeout=300)
        if reply.status_code != 200:
            raise RuntimeError(f"{url} answered {reply.status_code}: {reply.text[:300]}")
        if (got := top_class(reply.content)) != wanted:
            raise RuntimeError(f"{url} answered class {got} where eager PyTorch says {wanted}")


def forwards(name: str) -> dict[str, Any]:
    """What `bench.experiments.compilers` finds of a model."""
    command = [sys.executable, "-m", "bench.experiments.compilers", "--model", name]
    if name == texts.NAME:
        command = [sys.executable, "-m", "bench.experiments.text_compilers"]
    if name in ("swin_t", "vit_b_16"):
        command += ["--sizes", "1", "4", "8", "--rounds", "3"]  # larger ones were slower wherever they were tried
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=processes.child_env({}))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Both comparisons as ratios, a group of bars a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (served, bare) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    rows = [(name, found["ratio"]) for name, found in results["served"].items()]
    names, ratios = [name for name, _ in rows], [ratio for _, ratio in rows]
    served.bar_label(served.barh(names, ratios, color="#d95f02"), fmt="%.2f", padding=3)
    served.set(title="requests/s, in terms of TorchServe's own handler", xlim=(0, 1.15 * max([1.0, *ratios])))
    served.axvline(2, color="grey", linestyle=":")
    contestants = (OWN_FORWARD, ALONE)
    height = 0.38
    for number, contestant in enumerate(contestants):
        found = [(place, one["ratios"].get(contestant)) for place, one in enumerate(results["forwards"].values())]
        places = [place + (number - 0.5) * height for place, ratio in found if ratio is not None]
        bars = bare.barh(places, [ratio for _, ratio in found if ratio is not None], height, label=contestant)
        bare.bar_label(bars, fmt="%.2f", padding=3)
    names = [f"{name}\n({one['best_library']})" for name, one in results["forwards"].items()]
    bare.set_yticks(range(len(names)), names)
    bare.set(title="forward on one thread, in terms of the best library compiler")
    bare.axvline(1, color="grey", linestyle=":")
    bare.margins(x=0.12)
    bare.legend(fontsize="small")
    for axes in (served, bare):
        axes.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write other_models.json and .png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [model.name for model in MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--parts", nargs="+", choices=["served", "forwards"], default=["served", "forwards"])
    parser.add_argument("--rounds", type=int, default=3, help="over HTTP")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds as Ctrl-C does
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": describe(), "served": {}, "forwards": {}}

    def save() -> None:
        (args.out / "other_models.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    chosen = [model for model in MODELS if model.name in args.models]
    if "served" in args.parts:
        with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
            both = Served(Path(scratch))
            try:
                for model in chosen:
                    results["served"][model.name] = both.measure(model, args.rounds)
                    save()
            finally:
                both.stop()
    if "forwards" in args.parts:
        for model in chosen:
            results["forwards"][model.name] = forwards(model.name)
            save()
    draw(results, args.out / "other_models.png")
    shown = {
        part: {
            name: {k: v for k, v in one.items() if k not in ("samples", "seconds")}
            for name, one in results[part].items()
        }
        for part in ("served", "forwards")
    }
    print(json.dumps(shown, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
