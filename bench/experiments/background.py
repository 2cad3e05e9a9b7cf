"""What requests feel while workers measure in the background: their p99 in that time, beside p99 once it is over.

    python -m bench.experiments.background [--model resnet18] [--rate 8] [--rounds 2] [--out bench/results]

Random arrivals from the first answer on, until the metric smartbatch_model_measuring is 0 again, and then for a minute.
A server with a filled cache does the same: its JVM is as cold, and nothing measures. Writes background.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smartbatch.remote.scrape import scrape
from smartbatch.server.running import RunningServer
from smartbatch_load.account.series import percentile
from smartbatch_load.load.openloop import Shot, arrivals
from smartbatch_worker.contract import metrics as names

from bench.footprint import Footprint
from bench.load import Body
from bench.machine import describe
from bench.open_loop import OpenLoop

GOAL = 1.5
"""p99 while workers measure, in terms of p99 once they are done."""
SLICE_S, AFTER_S = 5.0, 60.0
"""After each slice of load it is asked whether anything is still measured; how long the load goes on after that."""
LONGEST_S = 900.0
MOST_OUTSTANDING = 10_000
"""Nothing stops the load: what waits is what is measured."""


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"[background] {text}", file=sys.stderr, flush=True)


def is_measuring(server: RunningServer) -> bool:
    """Whether any worker says so."""
    return scrape(server.metrics_url).total(names.MODEL_MEASURING) > 0


def loaded(server: RunningServer, footprint: Footprint, rate: float, seed: int) -> list[Shot]:
    """One slice of load."""
    body = Body("application/x-npy", (footprint.body,))
    times = list(arrivals(rate, SLICE_S, poisson=True, seed=seed))
    url = f"{server.inference_url}/predictions/{footprint.model}"
    return OpenLoop(url, body).fire(times, MOST_OUTSTANDING).shots


def measure(footprint: Footprint, rate: float, workers: int, cache: str) -> tuple[list[Shot], list[Shot], float]:
    """What came while it was measured, what came afterwards, and how long that took in seconds.

    A slice in which measuring ended counts for neither.
    """
    with footprint.server(workers, cache) as server:
        footprint.answer(server)
        started = time.monotonic()
        during: list[Shot] = []
        seed = 0
        while time.monotonic() - started < LONGEST_S:
            shots = loaded(server, footprint, rate, seed := seed + 1)
            if not is_measuring(server):
                break
            during += shots
        took_s = time.monotonic() - started
        if is_measuring(server):
            raise TimeoutError(f"still measuring after {took_s:.0f} s")
        slices = range(seed + 1, seed + 1 + round(AFTER_S / SLICE_S))
        after = [shot for number in slices for shot in loaded(server, footprint, rate, number)]
    return during, after, took_s


def first_minute(footprint: Footprint, rate: float, workers: int, cache: str) -> list[Shot]:
    """Of a server whose cache is filled."""
    with footprint.server(workers, cache) as server:
        footprint.answer(server)
        return [shot for seed in range(round(AFTER_S / SLICE_S)) for shot in loaded(server, footprint, rate, seed)]


def told(shots: Sequence[Shot]) -> dict[str, Any]:
    """Milliseconds from the time that a request was due."""
    latencies = sorted(shot.latency_s for shot in shots if shot.ok)
    quantiles = {f"p{round(100 * q)}_ms": percentile(latencies, q) for q in (0.5, 0.95, 0.99)}
    rounded = {name: None if value is None else round(1000 * value, 1) for name, value in quantiles.items()}
    return {"requests": len(shots), "failed": sum(not shot.ok for shot in shots), **rounded}


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """p99 of each phase in terms of the last one's, medians over the rounds; None where a phase had no answers."""
    ratios: dict[str, float | None] = {}
    for phase in ("measuring", "filled_cache"):
        found = [
            each[phase]["p99_ms"] / each["after"]["p99_ms"]
            for each in rounds
            if each[phase]["p99_ms"] and each["after"]["p99_ms"]
        ]
        ratios[phase] = round(statistics.median(found), 2) if found else None
    reached = ratios["measuring"]
    return {"p99_over_later": ratios, "goal": GOAL, "met": reached is not None and reached <= GOAL}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write background.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--rate", type=float, default=8.0, help="random arrivals a second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        footprint = Footprint(args.model, Path(scratch))
        for number in range(args.rounds):
            cache = f"cache-{number}"
            during, after, took_s = measure(footprint, args.rate, args.workers, cache)
            filled = first_minute(footprint, args.rate, args.workers, cache)
            found = {"measuring": told(during), "after": told(after), "filled_cache": told(filled)}
            rounds.append({"measured_for_s": round(took_s, 1), **found})
            say(str(rounds[-1]))
    settings = {"model": args.model, "rate": args.rate, "workers": args.workers}
    results = {"machine": describe(), "settings": settings, **summary(rounds), "rounds": rounds}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "background.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
