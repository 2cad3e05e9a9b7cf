"""`smartbatch tune` from bad starts, against the best of an exhaustive grid.

    python -m bench.tune_race [--slo-p95-ms 300] [--clients 8] [--oracle] [--points 24|240] [--grid tune_race.json]
                              [--starts NAME ...] [--out bench/results]

A ResNet18 server is started badly (batches of one, a long delay, more threads than cores, large batches of JSON), and
tuned. With --oracle, 24 settings (or 240, which take an hour) are measured as well for each kind of body, each as a
trial is, and the tuned setting is held against the best of them: both are measured again, one after the other, three
times. Of 240 the best by one look each is the luckiest, so that the eight best are measured again; --grid takes the
looks of an earlier run. All rates of a race are given at the machine's pace of its first look, as tune's are. Writes
tune_race.json, and with --oracle tune_race.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smartbatch.doctor.evidence import Observer
from smartbatch.doctor.probe import Probe
from smartbatch.remote.endpoints import Endpoints
from smartbatch.retune.canary import Canary
from smartbatch.retune.run import RetuneSettings, retune
from smartbatch.retune.targets import RetuneTarget
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch.simulation.costs import Setting
from smartbatch.simulation.score import grid
from smartbatch.tuning import report
from smartbatch.tuning.run import SECONDS, TuneSettings, tune
from smartbatch.tuning.search import Objective

from bench.load import Body, warm_up_jvm
from bench.machine import describe
from bench.progress import say
from bench.work import Work

CLIENTS = 8
"""Unless said: as many as two cores answer well within the objective; where p95 is just at it, chance decides."""
LONGEST_JVM_S = 60.0
NUM_COMPARISONS = 3
ONE_FINALIST_IN = 30
"""Settings of a grid: so many of its best are measured again."""
STARTS: dict[str, tuple[Setting, str]] = {
    "one by one": (Setting(batch_size=1, max_batch_delay_ms=10, workers=2), "jpeg224"),
    "a long delay": (Setting(batch_size=64, max_batch_delay_ms=100, workers=2), "jpeg224"),
    "threads over cores": (Setting(batch_size=8, max_batch_delay_ms=10, workers=2, threads=2), "jpeg224"),
    "large batches of JSON": (Setting(batch_size=64, max_batch_delay_ms=10, workers=2), "json"),
}
GRIDS = {
    24: tuple(grid((1, 4, 16, 32), (1, 10, 40), (1, 2))),
    240: tuple(grid((1, 2, 4, 8, 12, 16, 24, 32, 48, 64), (1, 3, 5, 10, 20, 40), (1, 2, 3, 4))),
}


class Race:
    """One server, one start."""

    def __init__(self, work: Work, name: str, objective: Objective, clients: int) -> None:
        self.start, self.workload = STARTS[name]
        self.objective = objective
        self.clients = clients
        self.body: Body = work.bodies[self.workload]
        self.model = "threaded" if self.start.threads else "smartbatch"
        self.pace_s: float | None = None
        """Of the machine at the first look of all, at which rates are given."""
        folder = work.folder / name.replace(" ", "_")
        self.server: RunningServer = start_server(
            ServerSettings(model_store=work.store, run_dir=folder, inference_port=0, management_port=0, metrics_port=0)
        )
        self.endpoints = Endpoints.of_state(self.server.state)
        self.target = RetuneTarget(self.endpoints, work.store, Canary(inference_url=self.server.inference_url))
        with self.server.management() as client:
            client.register(
                f"{self.model}.mar",
                batch_size=self.start.batch_size,
                max_batch_delay_ms=self.start.max_batch_delay_ms,
                workers=self.start.workers,
            )
            client.wait_ready(self.model)

    def warm_up(self) -> None:
        """Until the JVM has compiled, and the workers have measured."""
        url = f"{self.server.inference_url}/predictions/{self.model}"
        say(warm_up_jvm(url, self.body, self.clients, self.server.pid, LONGEST_JVM_S))

    def tune(self) -> dict[str, Any]:
        """As the command does it."""
        settings = TuneSettings(model=self.model, objective=self.objective, apply=True)
        found = tune(self.target, settings, self.probe(), say)
        return report.as_dict(found)

    def serve(self, setting: Setting) -> None:
        """Go over to it."""
        overrides = {"threads": "auto"} if self.start.threads else {}
        wanted = RetuneSettings(
            model=self.model,
            batch_size=setting.batch_size,
            max_batch_delay_ms=setting.max_batch_delay_ms,
            workers=setting.workers,
            overrides=overrides,
        )
        retune(self.endpoints, wanted, self.target.model_store, self.target.canary)

    def measure(self, setting: Setting) -> float:
        """What a setting is worth, measured as a trial is."""
        self.serve(setting)
        with self.probe():
            (evidence,) = Observer(self.endpoints, self.model, self.clients).watch(SECONDS, paced=True)
        self.pace_s = self.pace_s or evidence.pace_s
        view, longer = evidence.view, evidence.times_at(self.pace_s)
        return self.objective.worth((view.rps - view.errors_per_s) / longer, (view.p95_s or float("inf")) * longer)

    def probe(self) -> Probe:
        """The load."""
        return Probe(self.endpoints, self.model, (self.body.payloads[0], self.body.content_type), self.clients)


@dataclass(frozen=True, slots=True)
class Oracle:
    """What settings are worth, measured one after the other."""

    settings: tuple[Setting, ...]
    worths: dict[str, dict[Setting, float]] = field(default_factory=dict)
    """By kind of body, and setting."""


def race(work: Work, name: str, objective: Objective, clients: int, oracle: Oracle | None) -> dict[str, Any]:
    """One start: what tuning found, and how near that is to the best there is, if an oracle is to tell."""
    say(f"{name}: starting")
    runner = Race(work, name, objective, clients)
    try:
        runner.warm_up()
        found = runner.tune()
        lost = sum(count for status, count in found["requests"].items() if not status.startswith("2"))
        result: dict[str, Any] = {
            "start": name,
            "trials": len(found["trials"]),
            "seconds": found["seconds"],
            "lost": lost,
            "tuned": found,
        }
        say(f"{name}: {result['trials']} trials in {result['seconds']:.0f} s, {lost} lost, best {found['best']}")
        if oracle is not None:
            result |= _against_the_best(runner, Setting(**found["best"]), oracle)
            say(f"{name}: {result['of_the_best']} of the best, {result['oracle']}")
        return result
    finally:
        runner.server.stop(grace_s=0)


def _against_the_best(runner: Race, tuned: Setting, oracle: Oracle) -> dict[str, Any]:
    worths = oracle.worths.setdefault(runner.workload, {})
    for number, setting in enumerate(oracle.settings, 1):
        if setting not in worths:
            worths[setting] = runner.measure(setting)
            say(f"  {number}/{len(oracle.settings)} {setting}: {worths[setting]:.1f}")
    best = max(worths, key=worths.__getitem__)
    grid_found = [{**asdict(setting), "worth": round(worth, 2)} for setting, worth in worths.items()]
    if worths[best] <= 0:  # then no setting keeps the objective, and how far two miss it is no ratio
        return {"oracle": None, "of_the_best": None, "comparisons": [], "grid": grid_found}
    finalists = sorted(worths, key=worths.__getitem__, reverse=True)[: max(1, len(worths) // ONE_FINALIST_IN)]
    again: dict[Setting, list[float]] = {setting: [] for setting in (tuned, *finalists)}
    for _ in range(NUM_COMPARISONS):
        for setting, its in again.items():
            # What misses the objective is worth nothing; by how much it does is no rate.
            its.append(round(max(0.0, runner.measure(setting)), 2))
            say(f"  again: {setting}: {its[-1]}")
    medians = {setting: statistics.median(its) for setting, its in again.items()}
    best = max(finalists, key=medians.__getitem__)
    return {
        "oracle": asdict(best),
        "of_the_best": round(medians[tuned] / medians[best], 3) if medians[best] else None,
        "comparisons": list(zip(again[tuned], again[best], strict=True)),
        "again": [{**asdict(setting), "worths": its} for setting, its in again.items()],
        "grid": grid_found,
    }


def looks_of(path: Path) -> dict[str, dict[Setting, float]]:
    """What an earlier run measured of its grid, by kind of body."""
    names = ("batch_size", "max_batch_delay_ms", "workers")
    return {
        STARTS[one["start"]][1]: {Setting(**{name: at[name] for name in names}): at["worth"] for at in one["grid"]}
        for one in json.loads(path.read_text(encoding="utf-8"))["races"]
    }


def plot(races: Sequence[dict[str, Any]], path: Path) -> None:
    """Each start: the grid, and both settings as they were measured again."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 3.8), layout="constrained")
    for place, one in enumerate(races):
        first = place == 0
        worths = [max(0.0, at["worth"]) for at in one["grid"]]
        axis.scatter(
            [place - 0.2] * len(worths), worths, s=14, color="#bbbbbb", label="each setting, once" if first else None
        )
        ours, its = zip(*one["comparisons"], strict=True)
        axis.scatter([place] * len(its), its, s=34, color="#0072b2", label="the best of them, again" if first else None)
        axis.scatter([place + 0.2] * len(ours), ours, s=34, color="#d55e00", label="what tune found" if first else None)
    names = [f"{one['start']}\n{one['trials']} trials, {one['seconds']:.0f} s" for one in races]
    axis.set_xticks(range(len(races)), names)
    axis.set_ylabel("requests/s within the objective")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Race; write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slo-p95-ms", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--oracle", action="store_true", help="measure a grid of settings as well")
    parser.add_argument("--points", type=int, default=24, choices=list(GRIDS), help="of it: 6 or 60 minutes a body")
    parser.add_argument("--grid", type=Path, help="a tune_race.json whose looks are taken")
    parser.add_argument("--starts", nargs="+", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        work = Work(Path(scratch))
        say("building weights and archives")
        work.build()
        work.archive("threaded", {"threads": "2"})
        objective = Objective(args.slo_p95_ms / 1000)
        oracle = Oracle(GRIDS[args.points]) if args.oracle else None
        if oracle is not None and args.grid is not None:
            oracle.worths.update(looks_of(args.grid))
        results = [race(work, name, objective, args.clients, oracle) for name in args.starts]
    args.out.mkdir(parents=True, exist_ok=True)
    whole = {"machine": describe(), "slo_p95_ms": args.slo_p95_ms, "clients": args.clients, "races": results}
    (args.out / "tune_race.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if args.oracle and all(one["comparisons"] for one in results):
        plot(results, args.out / "tune_race.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
