"""Ten times the load and back, before `smartbatch autoscale`: for how long p95 misses the objective, and what it does.

    python -m bench.autoscale_step [--rate 10] [--heavy-s 60] [--after-s 60] [--out bench/results]

The model waits 50 ms a forward (as one that asks a device or a network), so that workers are in nobody's way on any
machine. Requests come at random (open loop); latencies are the client's, from the intended send time.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_load.load.openloop import Shot

from bench.load import Body
from bench.machine import describe
from bench.open_loop import OpenLoop

MODEL = """
import time

import torch


class Waits(torch.nn.Module):
    def forward(self, x):
        time.sleep(0.05)
        return 2 * x + 1
"""
BODY = Body("application/json", (json.dumps({"data": [1.0, 2.0, 3.0, 4.0]}).encode(),))
BEFORE_S = 20.0
BATCH, DELAY_MS = 4, 5
FACTOR = 10
BIN_S = 1.0


def times(rate: float, heavy_s: float, after_s: float) -> list[float]:
    """When requests are sent: Poisson arrivals, ten times as many in the middle."""
    draw, at_s, found = random.Random(0).expovariate, 0.0, []
    while at_s < BEFORE_S + heavy_s + after_s:
        is_heavy = BEFORE_S <= at_s < BEFORE_S + heavy_s
        at_s += draw(rate * (FACTOR if is_heavy else 1))
        found.append(at_s)
    return found


def breached_bins(shots: Sequence[Shot], objective_s: float) -> list[float]:
    """The seconds, by when requests were to be sent, whose p95 is over the objective."""
    bins: dict[int, list[float]] = {}
    for shot in shots:
        bins.setdefault(int(shot.intended_s / BIN_S), []).append(shot.latency_s)
    p95 = {number: sorted(found)[int(0.95 * (len(found) - 1))] for number, found in bins.items()}
    return [number * BIN_S for number, seconds in sorted(p95.items()) if seconds > objective_s]


def turns(events: Sequence[dict[str, Any]]) -> int:
    """How often it went the other way."""
    ways = [event["kind"] for event in events if event["kind"] in ("up", "down")]
    return sum(a != b for a, b in pairwise(ways))


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One step up and down."""
    source = folder / "waits.py"
    source.write_text(MODEL)
    build_archive(
        ArchiveSettings(
            name="waits", model_file=source, input_shape="4", output=folder, overrides={"micro_batch": str(BATCH)}
        )
    )
    server = start_server(
        ServerSettings(
            model_store=folder, run_dir=folder / "run", inference_port=0, management_port=0, metrics_port=0
        )
    )  # fmt: skip
    try:
        with server.management() as client:
            client.register("waits.mar", batch_size=BATCH, max_batch_delay_ms=DELAY_MS, workers=1)
            client.wait_ready("waits")
        url = f"{server.inference_url}/predictions/waits"
        OpenLoop(url, BODY).fire([0.1 * n for n in range(100)], 100)  # the JVM's first requests take seconds
        command = [sys.executable, "-m", "smartbatch", "autoscale", "waits", "--json", "--run-dir", str(folder / "run")]
        command += ["--slo-p95-ms", str(arguments.slo_p95_ms), "--max-workers", "6"]
        command += ["--cool-down", str(arguments.cool_down)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scaler:
            planned = times(arguments.rate, arguments.heavy_s, arguments.after_s)
            volley = OpenLoop(url, BODY).fire(planned, 5000)
            cpu = psutil.Process(scaler.pid).cpu_times()
            scaler.send_signal(signal.SIGTERM)
            said, _ = scaler.communicate(timeout=120)
        with server.management() as client:
            left = len(client.describe("waits").workers)
    finally:
        server.stop(grace_s=0)
    events = [json.loads(line) for line in said.splitlines()]
    missed = breached_bins(volley.shots, arguments.slo_p95_ms / 1000)
    return {
        "machine": describe(),
        "rates_per_s": [arguments.rate, FACTOR * arguments.rate, arguments.rate],
        "objective_ms": arguments.slo_p95_ms,
        "requests": len(volley.shots),
        "failed": sum(not shot.ok for shot in volley.shots),
        "seconds_over_objective": len(missed),
        "when": [round(at_s - BEFORE_S, 1) for at_s in missed],
        "reversals": turns(events),
        "workers_at_the_end": left,
        "autoscale_cpu_share": round((cpu.user + cpu.system) / planned[-1], 4),
        "events": events,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run once, print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second before and after")
    parser.add_argument("--slo-p95-ms", type=float, default=250.0)
    parser.add_argument("--cool-down", type=float, default=20.0)
    parser.add_argument("--heavy-s", type=float, default=60.0)
    parser.add_argument("--after-s", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = run(arguments, Path(folder))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "autoscale_step.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for event in found["events"]:
        print(f"{event['seconds']:7.1f} s {event['kind']:6} {event['workers']} -> {event['wanted']}: {event['why']}")
    print({key: value for key, value in found.items() if key not in ("events", "machine")})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
