"""Cost as the work grows: throughput and p95 against concurrency, batch size, image size, items a request; memory.

    python -m bench.scale [--quick] [--only idle concurrency batch image items soak] [--soak-minutes M] [--out DIR]

One SmartBatch server for each registration (batch size and delay are fixed at registration); wrk as the client.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from smartbatch.remote.scrape import scrape
from smartbatch.remote.status import describe_workers
from smartbatch.server.batching import DEFAULT_DELAY_MS, default_workers
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract import metrics as names

from bench import images, processes
from bench.load import (
    CONNECTIONS,
    JVM_WARM_UP_S,
    Body,
    LoadError,
    LoadResult,
    LoneClient,
    run_until_idle,
    run_until_steady,
    warm_up_jvm,
)
from bench.machine import describe
from bench.progress import say
from bench.work import Work, npy

CONCURRENCY = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
IMAGE_SIDES = (64, 128, 224, 384, 512, 768, 1024)
ITEMS = (1, 2, 4, 8, 16, 32)
WARM_UP_S = 3.0
LONGEST_WARM_UP_S = 150.0
"""Of the JVM's first load: a lone client pays for compilers that are still busy."""
MOST_WARM_UPS = 10
IDLE_DELAYS_MS = (1, 10)
LONGEST_FOR_METRICS_S = 10.0
SOAK_SAMPLE_S = 5.0


@dataclasses.dataclass(slots=True)
class Point:
    """One measurement: x is what was varied."""

    x: int
    items_per_s: float
    p50_ms: float
    p95_ms: float
    num_failed: int


class Scale:
    """The sweeps, against one server whose registrations change."""

    def __init__(self, work: Work, seconds: float, quick: bool) -> None:
        self.work, self.seconds, self.quick = work, seconds, quick
        run_dir = work.folder / "scale"
        settings = ServerSettings(
            model_store=work.store, run_dir=run_dir, inference_port=0, management_port=0, metrics_port=0
        )  # fmt: skip
        self.server: RunningServer = start_server(settings)
        self.url = f"{self.server.inference_url}/predictions/smartbatch"
        self._register(32)
        longest_s = JVM_WARM_UP_S if quick else LONGEST_WARM_UP_S
        say(warm_up_jvm(self.url, self.work.bodies["npy"], CONNECTIONS, self.server.pid, longest_s))

    def idle(self) -> list[dict[str, float]]:
        """One client alone: what a request pays beyond the delay and its own forward, as the worker's metrics tell."""
        points = []
        for delay_ms in IDLE_DELAYS_MS:
            self._register(32, delay_ms)
            samples = self._lone_requests(delay_ms)
            point = {"delay_ms": delay_ms} | {key: statistics.median(values) for key, values in samples.items()}
            points.append(point)
            say(f"  delay {delay_ms} ms: p50 {point['p50_ms']:.1f} ms, {point['beyond_ms']:.1f} beyond both")
        self._register(32)
        return points

    def _lone_requests(self, delay_ms: int) -> dict[str, list[float]]:
        """Requests one at a time for `seconds`, with the metrics read after each."""
        samples: dict[str, list[float]] = {"p50_ms": [], "forward_ms": [], "beyond_ms": []}
        with LoneClient(self.url, self.work.bodies["npy"]) as client:
            before = self._forward_seconds()
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:
                latency_ms = 1000 * client.request()
                after = self._forward_seconds_beyond(before)
                forward_ms = 1000 * (after - before)
                before = after
                samples["p50_ms"].append(latency_ms)
                samples["forward_ms"].append(forward_ms)
                samples["beyond_ms"].append(latency_ms - forward_ms - delay_ms)
        return samples

    def _forward_seconds_beyond(self, before: float) -> float:
        """Once a forward has been added: a worker's metrics arrive later than its answer.

        Raises:
            LoadError: they do not arrive.
        """
        until = time.monotonic() + LONGEST_FOR_METRICS_S
        while (after := self._forward_seconds()) == before:
            if time.monotonic() > until:
                raise LoadError(f"an answer came, but no metrics of it within {LONGEST_FOR_METRICS_S:.0f} s")
            time.sleep(0.002)
        return after

    def _forward_seconds(self) -> float:
        """Of all forwards so far."""
        return scrape(self.server.metrics_url).total(names.STAGE_SECONDS, stage="forward")

    def concurrency(self) -> list[Point]:
        """Requests in flight 1 … 512, 150 kB uint8 bodies."""
        return [self._point(c, self.work.bodies["npy"], c) for c in self._some(CONCURRENCY)]

    def batch(self) -> list[Point]:
        """Registered batch size 1 … 128, with twice as many requests in flight as all workers' batches hold."""
        points = []
        for size in self._some(BATCH_SIZES):
            self._register(size)
            points.append(self._point(size, self.work.bodies["npy"], min(512, 2 * size * default_workers())))
        self._register(32)
        return points

    def image(self) -> list[Point]:
        """JPEG bodies of 64² … 1024² pixels; the forward stays 224²."""
        return [
            self._point(side, Body("image/jpeg", tuple(images.jpeg(side, side, s) for s in range(8))), CONNECTIONS)
            for side in self._some(IMAGE_SIDES)
        ]

    def tensor(self) -> list[Point]:
        """Uint8 tensors of 64² … 1024² pixels, unresized: the forward grows with them."""
        points = []
        for side in self._some(IMAGE_SIDES):
            body = Body("application/octet-stream", tuple(images.uint8_npy(side, s) for s in range(4)))
            points.append(self._point(side, body, CONNECTIONS if side <= 224 else 16))
        return points

    def items(self) -> list[Point]:
        """1 … 32 items in one request, as many items in flight each time."""
        points = []
        for count in self._some(ITEMS):
            planes = np.stack([images.pixels(224, 224, s).transpose(2, 0, 1) for s in range(8)])
            payload = npy(np.resize(planes, (count, 3, 224, 224)))
            body = Body("application/octet-stream", (payload,))
            points.append(self._point(count, body, max(2, CONNECTIONS // count), num_items=count))
        return points

    def soak(self, minutes: float) -> list[dict[str, float]]:
        """Memory of the whole server, every few seconds, under mixed bodies."""
        samples: list[dict[str, float]] = []
        finished = threading.Event()

        def sample() -> None:
            started = time.monotonic()
            while not finished.wait(SOAK_SAMPLE_S):
                trees = processes.tree(self.server.pid)
                workers = sum(p.memory_info().rss for p in trees[1:]) / 2**20
                frontend = trees[0].memory_info().rss / 2**20
                samples.append({"s": time.monotonic() - started, "workers_mb": workers, "frontend_mb": frontend})

        watcher = threading.Thread(target=sample)
        watcher.start()
        try:
            until, turn = time.monotonic() + 60 * minutes, 0
            while time.monotonic() < until:
                workload = ("npy", "jpeg375", "json", "jpeg224")[turn % 4]
                self._load(self.work.bodies[workload], CONNECTIONS, min(15.0, max(2.0, until - time.monotonic())))
                turn += 1
        finally:
            finished.set()
            watcher.join()
        return samples

    def stop(self) -> None:
        """End the server."""
        self.server.stop(grace_s=0)

    def _register(self, batch_size: int, delay_ms: int = DEFAULT_DELAY_MS) -> None:
        with self.server.management() as client:
            if any(model.model_name == "smartbatch" for model in client.models()):
                client.unregister("smartbatch")
            client.register(
                "smartbatch.mar",
                "smartbatch",
                batch_size=batch_size,
                max_batch_delay_ms=delay_ms,
                workers=default_workers(),
            )
            client.wait_ready("smartbatch")
            # Weights load with a worker's first request, and are calibrated then: no part of what is measured.
            for _ in range(MOST_WARM_UPS):
                self._load(self.work.bodies["npy"], CONNECTIONS, WARM_UP_S)
                workers = describe_workers(client, client.describe("smartbatch")).values()
                if len(workers) == default_workers() and all(
                    worker["loaded"] and not worker["measuring"] for worker in workers
                ):
                    return
        raise RuntimeError("the workers did not load the model")

    def _point(self, x: int, body: Body, connections: int, num_items: int = 1) -> Point:
        result = run_until_steady(self.url, body, connections, self.seconds, self.server.pid)
        point = Point(x, num_items * result.requests_per_s, result.p50_ms, result.p95_ms, result.num_failed)
        say(f"  {x}: {point.items_per_s:.1f}/s p95 {point.p95_ms:.0f} ms, failed {point.num_failed}")
        return point

    def _load(self, body: Body, connections: int, seconds: float) -> LoadResult:
        return run_until_idle(self.url, body, connections, seconds, self.server.pid)

    def _some(self, values: tuple[int, ...]) -> tuple[int, ...]:
        return values[::3] if self.quick else values


TITLES = {
    "concurrency": "requests in flight",
    "batch": "registered batch size",
    "image": "JPEG side, pixels (forward at 224²)",
    "tensor": "uint8 tensor side, pixels (forward unresized)",
    "items": "items a request",
}


SWEEPS = ("idle", *TITLES, "soak")


def growth(samples: list[dict[str, float]]) -> float | None:
    """MB a minute over the second half of the soak: a least-squares line through all memory."""
    half = samples[len(samples) // 2 :]
    if len(half) < 3:
        return None
    slope = np.polyfit([s["s"] for s in half], [s["workers_mb"] + s["frontend_mb"] for s in half], 1)[0]
    return round(float(slope) * 60, 3)


def plot(results: dict[str, Any], path: Path) -> None:
    """One panel a sweep: throughput left, p95 right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sweeps = [name for name in (*TITLES, "soak") if results.get(name)]
    if not sweeps:
        return
    num_columns = min(3, len(sweeps))
    num_rows = math.ceil(len(sweeps) / num_columns)
    size = (5 * num_columns, 4 * num_rows)
    figure, axes = plt.subplots(num_rows, num_columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(sweeps) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, sweeps, strict=False):
        if name == "soak":
            minutes = [s["s"] / 60 for s in results["soak"]]
            axis.plot(minutes, [s["workers_mb"] for s in results["soak"]], label="workers", color="#d95f02")
            axis.plot(minutes, [s["frontend_mb"] for s in results["soak"]], label="frontend", color="#666666")
            axis.set(xlabel="minutes of mixed load", ylabel="resident MB", ylim=(0, None))
            axis.legend()
            continue
        points = results[name]
        xs = [p["x"] for p in points]
        axis.plot(xs, [p["items_per_s"] for p in points], "o-", color="#d95f02")
        axis.set_xscale("log", base=2)
        axis.set_xticks(xs, [str(x) for x in xs])
        axis.set(xlabel=TITLES[name], ylabel="items/s", ylim=(0, None))
        late = axis.twinx()
        late.plot(xs, [p["p95_ms"] for p in points], "s--", color="#1f78b4", alpha=0.7)
        late.set_ylabel("p95 ms", color="#1f78b4")
        late.set_ylim(0, None)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def markdown(results: dict[str, Any]) -> str:
    """One table a sweep."""
    lines = ["# Cost as the work grows", ""]
    if results.get("idle"):
        lines += ["| delay ms | a lone client's p50 ms | forward ms | beyond both, ms |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {p['delay_ms']} | {p['p50_ms']:.1f} | {p['forward_ms']:.1f} | {p['beyond_ms']:.1f} |"
            for p in results["idle"]
        ]
        lines.append("")
    for name, title in TITLES.items():
        if results.get(name):
            lines += [f"| {title} | items/s | p50 ms | p95 ms | failed |", "| --- | --- | --- | --- | --- |"]
            lines += [
                f"| {p['x']} | {p['items_per_s']:.1f} | {p['p50_ms']:.0f} | {p['p95_ms']:.0f} | {p['num_failed']} |"
                for p in results[name]
            ]
            lines.append("")
    if results.get("soak"):
        first, last = results["soak"][0], results["soak"][-1]
        lines.append(
            f"Soak of {last['s'] / 60:.1f} minutes: workers {first['workers_mb']:.0f} → {last['workers_mb']:.0f} MB, "
            f"frontend {first['frontend_mb']:.0f} → {last['frontend_mb']:.0f} MB; "
            f"second half {results['soak_growth_mb_per_min']} MB/min."
        )
    return "\n".join(lines) + "\n"


def save(results: dict[str, Any], folder: Path) -> None:
    """Write scale.json, scale.md and scale.png."""
    (folder / "scale.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "scale.md").write_text(markdown(results))
    plot(results, folder / "scale.png")


def main(argv: list[str] | None = None) -> int:
    """Run the sweeps; write scale.json, scale.md and scale.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every third point, 4 s each, 1 minute of soak")
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--seconds", type=float, help="per point; default 10, quick 4")
    parser.add_argument("--soak-minutes", type=float, help="default 10, quick 1")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": describe()}
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        work = Work(Path(scratch).absolute())
        work.build()
        scale = Scale(work, args.seconds or (4.0 if args.quick else 10.0), args.quick)
        try:
            for name in args.only:
                say(name)
                if name == "soak":
                    results["soak"] = scale.soak(args.soak_minutes or (1.0 if args.quick else 10.0))
                    results["soak_growth_mb_per_min"] = growth(results["soak"])
                elif name == "idle":
                    results["idle"] = scale.idle()
                else:
                    sweep: Callable[[], list[Point]] = getattr(scale, name)
                    results[name] = [dataclasses.asdict(point) for point in sweep()]
                save(results, args.out)  # after each, so that an interrupted run keeps what it has
        finally:
            scale.stop()
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
