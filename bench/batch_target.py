"""From one client to many, with and without `target_p95_ms`: how long batches take after the step.

    python -m bench.batch_target [--model waits] [--target-ms 100] [--clients 48] [--heavy-s 15] [--out bench/results]

A model that waits 12 ms and 4 more an item, or ResNet18 with random weights as this machine runs it; batches of up to
32 requests, as many workers as cores; uint8 pictures as .npy. The times of batches are the workers' own, from their
stages' counters between scrapes, so each point is the mean of a moment's batches; late ones are counted one by one.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.remote.scrape import Samples, scrape
from smartbatch.remote.status import describe_workers
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.contract.machine import num_cores

from bench.machine import describe

WAITS = """
import time

import torch


class Waits(torch.nn.Module):
    def forward(self, x):
        time.sleep(0.012 + 0.004 * len(x))
        return x.mean((2, 3))
"""
LIGHT_S = 10.0
BATCH_SIZE, DELAY_MS = 32, 5
POLL_S = 0.5
NO_TARGET_MS = 1e6
"""A target that no batch misses bounds nothing."""


@contextmanager
def asking(url: str, clients: int) -> Iterator[list[int]]:
    """So many clients for the length of the block, each waiting for its answer; statuses."""
    body = io.BytesIO()
    np.save(body, np.random.default_rng(0).integers(0, 256, (3, 224, 224), np.uint8))
    ended, statuses = threading.Event(), list[int]()

    def ask() -> None:
        with requests.Session() as session:
            while not ended.is_set():
                statuses.append(session.post(url, body.getvalue(), timeout=120).status_code)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def watched(server: RunningServer, model: str, seconds: float) -> list[dict[str, float]]:
    """Each moment's batches: how many, their mean seconds and size, how many of them late."""
    points, began = [], time.monotonic()
    old = scrape(server.metrics_url)
    while time.monotonic() - began < seconds:
        time.sleep(POLL_S)
        new = scrape(server.metrics_url)

        def gained(name: str, before: Samples = old, after: Samples = new) -> float:
            return after.total(name, model=model) - before.total(name, model=model)

        if batches := gained(names.BATCHES):
            points.append(
                {
                    "at_s": round(time.monotonic() - began, 2),
                    "batches": batches,
                    "late": gained(names.LATE_BATCHES),
                    "mean_ms": round(1000 * gained(names.STAGE_SECONDS) / batches, 1),
                    "mean_size": round(gained(f"{names.BATCH_SIZE}_sum") / batches, 2),
                }
            )
            old = new
    return points


def measured(server: RunningServer, target_ms: float | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Light, then heavy, on an archive of that target."""
    model = "bounded" if target_ms else "unbounded"
    overrides = {"target_p95_ms": str(target_ms or NO_TARGET_MS)}
    store = Path(server.state.model_store)
    if arguments.model == "waits":
        source = store.parent / "waits.py"
        source.write_text(WAITS)
        overrides["micro_batch"] = str(BATCH_SIZE)
        settings = ArchiveSettings(name=model, model_file=source, overrides=overrides, output=store)
    else:
        settings = ArchiveSettings(name=model, random_weights=True, overrides=overrides, output=store)
    build_archive(settings)
    url = f"{server.inference_url}/predictions/{model}"
    with server.management() as client:
        client.register(f"{model}.mar", batch_size=BATCH_SIZE, max_batch_delay_ms=DELAY_MS, workers=num_cores())
        client.wait_ready(model)
        while any(not w["loaded"] or w["measuring"] for w in describe_workers(client, client.describe(model)).values()):
            with asking(url, 2 * num_cores()):
                time.sleep(1)
        with asking(url, 1):
            light = watched(server, model, LIGHT_S)
        with asking(url, arguments.clients) as statuses:
            heavy = watched(server, model, arguments.heavy_s)
        client.unregister(model)
    late = {
        name: sum(p["late"] for p in points) / max(1.0, sum(p["batches"] for p in points))
        for name, points in (
            ("light", light),
            ("first_3_s", [p for p in heavy if p["at_s"] <= 3]),
            ("then", [p for p in heavy if p["at_s"] > 3]),
        )
    }
    return {
        "target_ms": target_ms,
        "late_share": {name: round(share, 4) for name, share in late.items()},
        "requests_per_s": round(len(statuses) / arguments.heavy_s, 1),
        "failed": sum(status != 200 for status in statuses),
        "light": light,
        "heavy": heavy,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both, print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("waits", "resnet18"), default="waits")
    parser.add_argument("--target-ms", type=float, default=100.0)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--heavy-s", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        store, run_dir = Path(folder) / "store", Path(folder) / "run"
        store.mkdir()
        settings = ServerSettings(
            model_store=store, run_dir=run_dir, inference_port=0, management_port=0, metrics_port=0
        )  # fmt: skip
        server = start_server(settings)
        try:
            found = [measured(server, target_ms, arguments) for target_ms in (arguments.target_ms, None)]
        finally:
            server.stop(grace_s=0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    fields = {"machine": describe(), "runs": found}
    (arguments.out / "batch_target.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    for one in found:
        print({key: value for key, value in one.items() if key not in ("light", "heavy")})
        for point in one["heavy"]:
            print("   ", point)
    return 0


if __name__ == "__main__":
    sys.exit(main())
