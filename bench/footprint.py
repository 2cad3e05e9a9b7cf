"""What workers cost: memory of one and of several, how long until one more serves, and until a model answers first.

    python -m bench.footprint [--model resnet18] [--workers 1,2,4,8] [--rounds 3] [--out bench/results]

Writes footprint-<model>.json, .csv and .png. Memory is proportional (PSS): a page that n processes share counts 1/n
for each. The fork server's is part of the workers'. Times are medians; "cold" is with an empty cache, "warm" with what
an earlier server left there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.remote.status import describe_workers, wait_measured
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract import environment

from bench.machine import describe

_POLL_S = 0.005
_MEASURING_TIMEOUT_S = 600.0
_SIDE = 224


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"[footprint] {text}", file=sys.stderr, flush=True)


class Footprint:
    """One model's archive, and servers of it.

    Args:
        model: torchvision's name.
        folder: for archive, caches and run folders.
    """

    def __init__(self, model: str, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.store = folder / "store"
        self._number = 0
        build_archive(ArchiveSettings(model=model, random_weights=True, output=self.store))
        data = np.random.default_rng(0).random((3, _SIDE, _SIDE), dtype=np.float32)
        path = folder / "body.npy"
        np.save(path, data)
        self.body = path.read_bytes()

    @contextmanager
    def server(self, workers: int, cache: str) -> Iterator[RunningServer]:
        """A server with its workers READY.

        Args:
            workers: of the model.
            cache: the name of its cache folder.
        """
        self._number += 1
        settings = ServerSettings(
            model_store=self.store,
            run_dir=self.folder / f"run-{self._number}",
            inference_port=0,
            management_port=0,
            metrics_port=0,
            env={environment.CACHE_DIR: str(self.folder / cache)},
        )
        (self.folder / cache).mkdir(mode=0o700, exist_ok=True)
        running = start_server(settings)
        try:
            with running.management() as client:
                client.register(f"{self.model}.mar", self.model, batch_size=8, max_batch_delay_ms=10, workers=workers)
                client.wait_ready(self.model, 300)
            yield running
        finally:
            running.stop(grace_s=0)

    def answer(self, server: RunningServer) -> float:
        """Seconds of one request."""
        start = time.perf_counter()
        url = f"{server.inference_url}/predictions/{self.model}"
        reply = requests.post(url, data=self.body, headers={"Content-Type": "application/x-npy"}, timeout=300)
        reply.raise_for_status()
        return time.perf_counter() - start

    def load_all(self, server: RunningServer) -> None:
        """Have every worker load the model."""
        with server.management() as client:
            while True:
                workers = describe_workers(client, client.describe(self.model), 60.0)
                if all(worker.get("loaded") for worker in workers.values()):
                    break
                threads = [threading.Thread(target=self.answer, args=(server,)) for _ in range(4 * len(workers))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            wait_measured(client, client.describe(self.model), _MEASURING_TIMEOUT_S)

    def worker_pids(self, server: RunningServer) -> list[int]:
        """Of the processes that run the model."""
        with server.management() as client:
            status = client.describe(self.model)
        return [worker.pid for worker in status.workers if worker.status == "READY"]

    def until_ready(self, server: RunningServer, change: Callable[[], object], count: int, without: int = 0) -> float:
        """Milliseconds from a change until `count` workers are READY, none of them `without`."""
        start = time.perf_counter()
        change()
        while True:
            pids = self.worker_pids(server)
            if len(pids) == count and without not in pids:
                return 1000 * (time.perf_counter() - start)
            time.sleep(_POLL_S)


def pss_mb(pid: int) -> float:
    """Of one process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no Pss of {pid}")


def memory(footprint: Footprint, server: RunningServer) -> dict[str, float]:
    """Of workers, with the processes that start them, and of the frontend."""
    workers = set(footprint.worker_pids(server))
    frontend = psutil.Process(server.pid)
    python = [child.pid for child in frontend.children(recursive=True)]
    return {
        "workers_mb": round(sum(pss_mb(pid) for pid in workers), 1),
        "beside_mb": round(sum(pss_mb(pid) for pid in python if pid not in workers), 1),
        "frontend_rss_mb": round(frontend.memory_info().rss / 2**20, 1),
    }


def cold_serve_s(footprint: Footprint) -> float:
    """Seconds of `smartbatch serve --detach`, from the shell to READY."""
    run_dir = footprint.folder / "run-serve"
    arguments = ["--model", footprint.model, "--model-store", footprint.store, "--workers", "1", "--run-dir", run_dir]
    ports = ["--inference-port", "0", "--management-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "smartbatch", "serve", *map(str, arguments), *ports, "--detach"]
    env = {**os.environ, environment.CACHE_DIR: str(footprint.folder / "warm")}
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=env)
    seconds = time.perf_counter() - start
    RunningServer.attach(run_dir).stop(grace_s=0)
    return seconds


def measure(footprint: Footprint, counts: Sequence[int], rounds: int) -> dict[str, Any]:
    """All figures."""
    times: dict[str, list[float]] = {}

    def took(name: str, value: float) -> None:
        times.setdefault(name, []).append(value)
        say(f"{name} {value:.3g}")

    for number in range(rounds):
        with footprint.server(1, f"cold-{number}") as server:
            took("first_answer_cold_s", footprint.answer(server))
            footprint.load_all(server)
        with footprint.server(1, f"cold-{number}") as server:
            took("first_answer_warm_s", footprint.answer(server))
            footprint.load_all(server)
            with server.management() as client:
                add = lambda: client.scale(footprint.model, 2)  # noqa: E731
                took("add_worker_ms", footprint.until_ready(server, add, 2))
                victim = footprint.worker_pids(server)[0]
                kill = lambda: os.kill(victim, signal.SIGKILL)  # noqa: E731, B023
                took("recover_ms", footprint.until_ready(server, kill, 2, victim))
        took("cold_serve_s", cold_serve_s(footprint))
    by_count = {}
    for count in counts:
        with footprint.server(count, "cold-0") as server:
            footprint.load_all(server)
            by_count[count] = memory(footprint, server)
            say(f"{count} workers: {by_count[count]}")
    total = {count: found["workers_mb"] + found["beside_mb"] for count, found in by_count.items()}
    return {
        **{name: round(statistics.median(values), 3) for name, values in times.items()},
        "pss_ratio": round(total[max(total)] / total[min(total)], 3),
        "memory": by_count,
        "samples": times,
    }


TIMES = ("first_answer_cold_s", "first_answer_warm_s", "cold_serve_s", "add_worker_ms", "recover_ms")


def save(results: dict[str, Any], folder: Path) -> None:
    """Write what was measured as JSON, as rows and as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"footprint-{results['model']}"
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("figure", "workers", "value"))
        rows.writerow(("pss_ratio", "", results["pss_ratio"]))
        rows.writerows((time, "", results[time]) for time in TIMES)
        for count, found in results["memory"].items():
            rows.writerows((figure, count, value) for figure, value in found.items())
    plot(results, folder / f"{name}.png")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw memory by number of workers, and the times, each round a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (memory_axis, times_axis) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    counts = [str(count) for count in results["memory"]]
    bottom = [0.0] * len(counts)
    for key, label in (("beside_mb", "what starts them"), ("workers_mb", "workers")):
        values = [found[key] for found in results["memory"].values()]
        memory_axis.bar(counts, values, bottom=bottom, label=label)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    for position, total in enumerate(bottom):
        memory_axis.annotate(f"{total:.0f}", (position, total), ha="center", va="bottom")
    memory_axis.set(title=f"{results['model']}: memory of all workers", xlabel="workers", ylabel="PSS, MiB")
    memory_axis.legend(loc="lower right")
    for position, name in enumerate(TIMES):
        scale = 1000 if name.endswith("_ms") else 1
        seconds = [value / scale for value in results["samples"][name]]
        times_axis.plot(seconds, [position] * len(seconds), "o", alpha=0.5, color="C0")
        median = statistics.median(seconds)
        times_axis.plot(median, position, "|", markersize=24, color="C1")
        times_axis.annotate(f"{median:.2f} s", (median, position), (8, 8), textcoords="offset points")
    times_axis.set_yticks(range(len(TIMES)), [name.rsplit("_", 1)[0].replace("_", " ") for name in TIMES])
    times_axis.margins(x=0.15)
    times_axis.set(title="Until it serves", xlabel="seconds", ylim=(len(TIMES) - 0.5, -0.5))
    times_axis.set_xlim(left=0)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Measure, print and write footprint-<model>.json, .csv and .png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--workers", default="1,2,4,8", help="counts whose memory is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        say(f"building {args.model}")
        footprint = Footprint(args.model, Path(scratch))
        counts = [int(count) for count in args.workers.split(",")]
        found = measure(footprint, counts, args.rounds)
    results = {"model": args.model, "machine": describe(), **found}
    save(results, args.out)
    print(json.dumps({key: value for key, value in results.items() if key != "samples"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
