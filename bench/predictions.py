"""How far the model of the server is from the server: predicted against measured, over settings and loads.

    python -m bench.predictions [--seconds 6] [--out bench/results]

Before each setting of the grid a ResNet18 server is watched for ten seconds at another one under one load, as
`smartbatch doctor` watches it, and the model is fitted to that; then the setting is registered, loaded and measured
under each load, and compared with what the model said of it. So a prediction is a minute old, as a doctor's or tune's
is. What was measured is given at the machine's pace when it was watched, as tune gives it: that changes by a fifth from
one look to the next. Latencies are the server's own.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from smartbatch.doctor.evidence import Evidence, Observer
from smartbatch.doctor.gain import observe
from smartbatch.remote.endpoints import Endpoints
from smartbatch.remote.status import describe_workers
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch.simulation.batches import simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.fit import Observed, fit
from smartbatch.simulation.load import ClosedLoop
from smartbatch_worker.contract.machine import num_cores

from bench import diagonal
from bench.load import Body, run_until_idle, warm_up_jvm
from bench.machine import describe
from bench.work import Work

MODEL = "smartbatch"
WATCHED = (
    (Setting(batch_size=8, max_batch_delay_ms=10, workers=1), 32),
    (Setting(batch_size=32, max_batch_delay_ms=20, workers=2), 4),
)
"""What the model is fitted to, each by itself: a setting and as many clients that wait."""
SIZES, DELAYS_MS, WORKERS, CLIENTS = (1, 8, 32), (1, 20), (1, 2), (4, 32)
WITHIN = 0.25
"""Of what was measured: wanted of nine predictions of ten."""
WATCH_S = 10.0
WARM_UP_S = 3.0
MOST_WARM_UPS = 10
LONGEST_JVM_S = 100.0
STARTED = time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One setting under one load: what was measured, and what a fit said."""

    setting: Setting
    clients: int
    measured_per_s: float
    measured_p95_s: float
    pace: float
    """Of the machine, in terms of what it was at the fit: `measured_per_s` times this were seen."""
    predicted_per_s: float
    predicted_p95_s: float

    @property
    def rate_error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return abs(self.predicted_per_s / self.measured_per_s - 1)

    @property
    def p95_error(self) -> float:
        """The same for p95."""
        return abs(self.predicted_p95_s / self.measured_p95_s - 1)


class Bench:
    """One server whose registration changes."""

    def __init__(self, work: Work) -> None:
        settings = ServerSettings(
            model_store=work.store, run_dir=work.folder / "run", inference_port=0, management_port=0, metrics_port=0
        )  # fmt: skip
        self.body: Body = work.bodies["jpeg224"]
        self.server: RunningServer = start_server(settings)
        self.url = f"{self.server.inference_url}/predictions/{MODEL}"
        self.endpoints = Endpoints.of_state(self.server.state)

    def register(self, setting: Setting) -> None:
        """Have the model served like that, loaded and measured."""
        with self.server.management() as client:
            if any(model.model_name == MODEL for model in client.models()):
                client.unregister(MODEL)
            client.register(
                f"{MODEL}.mar",
                MODEL,
                batch_size=setting.batch_size,
                max_batch_delay_ms=setting.max_batch_delay_ms,
                workers=setting.workers,
            )
            client.wait_ready(MODEL)
            for _ in range(MOST_WARM_UPS):
                run_until_idle(self.url, self.body, 32, WARM_UP_S, self.server.pid)
                workers = describe_workers(client, client.describe(MODEL)).values()
                if len(workers) == setting.workers and all(w["loaded"] and not w["measuring"] for w in workers):
                    return
        raise RuntimeError("the workers did not load the model")

    def watch(self, clients: int, seconds: float) -> Evidence:
        """What the doctor sees under the load of so many clients."""
        with self._load(clients, seconds + WARM_UP_S):
            time.sleep(WARM_UP_S / 2)
            (evidence,) = Observer(self.endpoints, MODEL, clients).watch(seconds, paced=True)
        return evidence

    @contextmanager
    def _load(self, clients: int, seconds: float) -> Iterator[None]:
        thread = threading.Thread(
            target=run_until_idle, args=(self.url, self.body, clients, seconds + 1, self.server.pid)
        )
        thread.start()
        try:
            yield
        finally:
            thread.join()


def fitted(bench: Bench, setting: Setting, clients: int) -> tuple[Observed, Costs, float | None]:
    """What was seen in ten seconds of watching, the model of it, and the machine's pace meanwhile.

    Raises:
        RuntimeError: too little was seen.
    """
    bench.register(setting)
    evidence = bench.watch(clients, WATCH_S)
    observed = observe(evidence)
    if observed is None:
        raise RuntimeError("nothing to fit to")
    return observed, fit(observed, ClosedLoop(clients)), evidence.pace_s


def grid() -> list[Setting]:
    """All settings, in an order in which neighbours are far apart: machines drift."""
    settings = [
        Setting(batch_size=size, max_batch_delay_ms=delay_ms, workers=workers)
        for size, delay_ms, workers in product(SIZES, DELAYS_MS, WORKERS)
    ]
    random.Random(0).shuffle(settings)
    return settings


def measure(bench: Bench, seconds: float) -> list[tuple[dict[str, Any], list[Point]]]:
    """Of each of WATCHED, which take turns before the settings: what was seen of it, and the points predicted by it."""
    found: list[list[Point]] = [[] for _ in WATCHED]
    seen: list[list[dict[str, Any]]] = [[] for _ in WATCHED]
    for number, setting in enumerate(grid()):
        which = number % len(WATCHED)
        observed, costs, pace_s = fitted(bench, *WATCHED[which])
        seen[which].append({"observed": asdict(observed), "costs": asdict(costs)})
        bench.register(setting)
        for clients in CLIENTS:
            evidence = bench.watch(clients, seconds)
            view, longer = evidence.view, evidence.times_at(pace_s)
            if view.p95_s is None:
                raise RuntimeError(f"no latencies at {setting}")
            predicted = simulate(ClosedLoop(clients), setting, costs)
            point = Point(
                setting=setting,
                clients=clients,
                measured_per_s=view.rps / longer,
                measured_p95_s=view.p95_s * longer,
                pace=longer,
                predicted_per_s=predicted.requests_per_s,
                predicted_p95_s=predicted.p95_s,
            )
            found[which].append(point)
            say(
                f"{_name(setting)}, {clients} clients: {point.measured_per_s:.1f}/s at "
                f"{1000 * point.measured_p95_s:.0f} ms, at {longer:.2f} of the pace; predicted "
                f"{point.predicted_per_s:.1f} at {1000 * point.predicted_p95_s:.0f}"
            )
    return [
        ({"watched": {**asdict(setting), "clients": clients}, "seen": fits}, points)
        for (setting, clients), fits, points in zip(WATCHED, seen, found, strict=True)
    ]


def summary(points: Sequence[Point]) -> dict[str, Any]:
    """Errors, and the points they are of."""

    def errors(values: list[float]) -> dict[str, float]:
        ninth = statistics.quantiles(values, n=10)[-1]
        return {
            "median": round(statistics.median(values), 3),
            "nine_of_ten": round(ninth, 3),
            "most": round(max(values), 3),
        }

    return {
        "rate_error": errors([point.rate_error for point in points]),
        "p95_error": errors([point.p95_error for point in points]),
        "points": [asdict(point) for point in points],
    }


def plot(fits: Sequence[dict[str, Any]], path: Path) -> None:
    """Predicted against measured, rates left and p95 right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for axis, figure_of, scale, title in (
        (axes[0], "per_s", 1.0, "requests/s"),
        (axes[1], "p95_s", 1000.0, "p95, ms"),
    ):
        values: list[float] = []
        for fit_made, colour in zip(fits, ("#d95f02", "#1f78b4"), strict=False):
            watched = fit_made["watched"]
            label = (
                f"fitted at batch {watched['batch_size']}, {watched['workers']} worker(s), {watched['clients']} clients"
            )
            xs = [scale * point[f"measured_{figure_of}"] for point in fit_made["points"]]
            ys = [scale * point[f"predicted_{figure_of}"] for point in fit_made["points"]]
            axis.scatter(xs, ys, s=26, color=colour, label=label, alpha=0.8)
            values += xs + ys
        diagonal.draw(axis, values, WITHIN)
        axis.set(xlabel=f"measured {title}", ylabel=f"predicted {title}")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def say(line: str) -> None:
    """Progress."""
    print(f"[predictions {time.monotonic() - STARTED:5.0f} s] {line}", file=sys.stderr, flush=True)


def _name(setting: Setting) -> str:
    return f"batch {setting.batch_size}, {setting.max_batch_delay_ms} ms, {setting.workers} worker(s)"


def main(argv: list[str] | None = None) -> int:
    """Measure; write predictions.json and predictions.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="under load, a point")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    if num_cores() < max(WORKERS):
        print(f"[predictions] settings have up to {max(WORKERS)} workers, and there are fewer cores", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        work = Work(Path(scratch))
        say("building weights and archives")
        work.build()
        bench = Bench(work)
        try:
            bench.register(WATCHED[0][0])
            say(warm_up_jvm(bench.url, bench.body, 32, bench.server.pid, LONGEST_JVM_S))
            found = measure(bench, args.seconds)
        finally:
            bench.server.stop(grace_s=0)
    args.out.mkdir(parents=True, exist_ok=True)
    fits = [{**about, **summary(points)} for about, points in found]
    every = summary([point for _, points in found for point in points])
    results = {
        "machine": describe(),
        "seconds": args.seconds,
        "all": {name: every[name] for name in ("rate_error", "p95_error")},
        "fits": fits,
    }
    (args.out / "predictions.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    plot(fits, args.out / "predictions.png")
    for one in (*fits, {"watched": "either", **every}):
        say(f"fitted to {one['watched']}: rate off by {one['rate_error']}, p95 by {one['p95_error']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
