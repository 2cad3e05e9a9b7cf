"""A model on a GPU behind TorchServe: pictures a second over HTTP, by the number of workers that share the GPU.

    python -m bench.gpu_serve [--model resnet50] [--precision bf16] [--workers 1,2,4,8] [--batch 64]
                              [--max-delay-ms 5] [--clients 128,256] [--seconds 8] [--body jpeg|npy]
                              [--set KEY=VALUE ...] [--add NAME] [--out FOLDER]

wrk keeps `--clients` requests in flight, from this machine. Weights are random and seeded. Without a GPU the same code
runs on the CPU. gpu_serve.json holds, of each number of workers and clients, the rate, p50, p95, p99 and what the GPU
did meanwhile; gpu_serve.png shows them. `--add` keeps the runs that are there, and draws this one beside them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.remote.status import wait_measured
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server

from bench import machine
from bench.images import SIZES, jpeg, uint8_npy
from bench.load import Body, run_wrk
from bench.progress import say

NAME = "served"
TOLD = ("device", "compile", "precision", "threads", "micro_batch", "micro_batch_ms_per_item", "load_seconds")
"""Of what a worker says of itself."""
SAMPLE_S = 0.2
MEASURING_TIMEOUT_S = 120.0
WARM_UP_S = 3.0
LOG_LINES = 30


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What nvidia-smi saw while a server was under load."""

    busy_share: float
    """Of the samples' time, when some kernel ran."""
    memory_mib: int
    """Of the whole GPU, the most that was taken."""


class GpuWatch:
    """Samples the first GPU until the block ends; sees nothing where there is none."""

    def __enter__(self) -> GpuWatch:
        self._samples: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def use(self) -> GpuUse | None:
        """Of what was sampled by now."""
        if not self._samples:
            return None
        busy = sum(share for share, _ in self._samples) / len(self._samples)
        return GpuUse(round(busy, 3), max(memory for _, memory in self._samples))

    def _sample(self) -> None:
        asked = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-i", "0"]
        while not self._ended.wait(SAMPLE_S):
            told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split(",")
            if len(told) == 2:
                self._samples.append((int(told[0]) / 100, int(told[1])))


def archive(folder: Path, model: str, precision: str, overrides: dict[str, str]) -> Path:
    """Build one with random weights.

    Returns:
        The model store.
    """
    store = folder / "store"
    store.mkdir()
    keys = {"precision": precision, "output": "topk", "load": "eager", **overrides}
    build_archive(ArchiveSettings(model=model, random_weights=True, name=NAME, overrides=keys, output=store))
    return store


def measure(server: RunningServer, body: Body, workers: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Serve the archive by so many workers, under load of each number of clients."""
    url = f"{server.inference_url}/predictions/{NAME}"
    with server.management() as client:
        started = time.monotonic()
        client.register(
            f"{NAME}.mar", NAME, batch_size=args.batch, max_batch_delay_ms=args.max_delay_ms, workers=workers
        )
        client.wait_ready(NAME)
        ready_s = time.monotonic() - started
        wait_measured(client, client.describe(NAME), MEASURING_TIMEOUT_S)
    for clients in map(int, args.clients.split(",")):
        run_wrk(url, body, clients, WARM_UP_S)
        with GpuWatch() as watch:
            result = run_wrk(url, body, clients, args.seconds, server.pid)
            use = watch.use()
        with server.management() as client:
            told = client.describe(NAME, customized=True).customized or {}
        yield {
            "workers": workers,
            "clients": clients,
            "ready_s": round(ready_s, 1),
            **asdict(result),
            "gpu": None if use is None else asdict(use),
            "worker": {name: told.get(name) for name in TOLD},
        }
    with server.management() as client:
        client.unregister(NAME)


@dataclass(frozen=True, slots=True)
class Run:
    """One call of this bench."""

    name: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]


def read(folder: Path) -> list[Run]:
    """The runs that are kept in a folder."""
    file = folder / "gpu_serve.json"
    return [Run(**run) for run in json.loads(file.read_text())["runs"]] if file.exists() else []


def write(folder: Path, earlier: Sequence[Run], run: Run) -> None:
    """gpu_serve.json, and what it looks like."""
    runs = [*earlier, run]
    found = {"machine": machine.describe(), "runs": [asdict(each) for each in runs]}
    (folder / "gpu_serve.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(runs, folder / "gpu_serve.png")


def draw(runs: Sequence[Run], path: Path) -> None:
    """Requests a second over p99: each run's workers and clients."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for run in runs:
        late, rates = ([row[key] for row in run.rows] for key in ("p99_ms", "requests_per_s"))
        drawn = axes.scatter(late, rates, label=run.name)
        for row in run.rows:
            text, place = f"{row['workers']}×{row['clients']}", (row["p99_ms"] + 1, row["requests_per_s"])
            axes.annotate(text, place, color=drawn.get_facecolor()[0], fontsize="xx-small", va="center")
    axes.set(xlabel="p99, ms", ylabel="requests/s", ylim=(0, None), xlim=(0, None), title="workers×clients")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a torchvision builder; random weights")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max-delay-ms", type=int, default=5)
    parser.add_argument("--clients", default="128,256")
    parser.add_argument("--seconds", type=float, default=8.0, help="under load, after a warm-up")
    parser.add_argument("--body", default="jpeg", choices=["jpeg", "npy"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of model-config.yaml")
    parser.add_argument("--add", metavar="NAME", help="of this run, beside those that are in --out")
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu"))
    args = parser.parse_args(argv)
    if args.body == "jpeg":
        body = Body("image/jpeg", tuple(jpeg(*size, seed) for seed, size in enumerate(SIZES)))
    else:
        body = Body("application/octet-stream", tuple(uint8_npy(224, seed) for seed in range(8)))
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    earlier = read(args.out) if args.add else []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch)
        store = archive(folder, args.model, args.precision, dict(pair.split("=", 1) for pair in args.set))
        say(f"{args.model} is archived")
        settings = ServerSettings(
            model_store=store, run_dir=folder / "run", inference_port=0, management_port=0, metrics_port=0
        )
        server = start_server(settings)
        try:
            for workers in map(int, args.workers.split(",")):
                for row in measure(server, body, workers, args):
                    rows.append(row)
                    told = f"{workers} workers, {row['clients']} clients: {row['requests_per_s']:.0f} requests/s"
                    say(f"{told}, p99 {row['p99_ms']:.0f} ms, {row['gpu']}")
                    write(args.out, earlier, Run(args.add or args.model, vars(args) | {"out": None}, rows))
        except BaseException:
            log = folder / "run" / "logs" / "model_log.log"
            if log.exists():
                say("\n".join(["model_log.log ends with", *log.read_text().splitlines()[-LOG_LINES:]]))
            raise
        finally:
            server.stop(grace_s=0)
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
