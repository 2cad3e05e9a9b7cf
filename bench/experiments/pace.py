"""How much of what one setting's rate differs by, from look to look, is the machine's pace (`smartbatch.doctor.pace`).

    python -m bench.experiments.pace [--looks 40] [--seconds 5] [--out bench/results]

A ResNet18 server with one setting, eight clients that wait, one look after the other, each as `smartbatch tune` has it.
Writes pace.json and pace.png: rates as they were seen, and as they would have been at the first look's pace.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smartbatch.doctor.evidence import Observer
from smartbatch.simulation.costs import Setting
from smartbatch.tuning.search import Objective

from bench.machine import describe
from bench.progress import say
from bench.tune_race import CLIENTS, Race
from bench.work import Work

SETTING = Setting(batch_size=4, max_batch_delay_ms=10, workers=2)


def measure(work: Work, num_looks: int, seconds: float) -> list[dict[str, float]]:
    """Each look's rate and p95 as seen, the pace, and the rate at the first one's pace."""
    runner = Race(work, "one by one", Objective(), CLIENTS)
    try:
        runner.warm_up()
        runner.serve(SETTING)
        looks: list[dict[str, float]] = []
        first_s: float | None = None
        with runner.probe():
            for _ in range(num_looks):
                (evidence,) = Observer(runner.endpoints, runner.model, CLIENTS).watch(seconds, paced=True)
                first_s = first_s or evidence.pace_s
                longer = evidence.times_at(first_s)
                looks.append(
                    {
                        "requests_per_s": round(evidence.view.rps, 2),
                        "p95_ms": round(1000 * (evidence.view.p95_s or 0.0), 1),
                        "pace": round(longer, 3),
                        "at_one_pace": round(evidence.view.rps / longer, 2),
                    }
                )
                say(str(looks[-1]))
        return looks
    finally:
        runner.server.stop(grace_s=0)


def spread(looks: Sequence[dict[str, float]], figure: str) -> float:
    """Standard deviation, as a share of the mean."""
    values = [look[figure] for look in looks]
    return round(statistics.stdev(values) / statistics.mean(values), 3)


def plot(found: dict[str, Any], path: Path) -> None:
    """Both rates, look by look."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 3.2), layout="constrained")
    looks = found["looks"]
    for name, label, color in (
        ("requests_per_s", "as seen", "#bbbbbb"),
        ("at_one_pace", "at the first look's pace", "#d55e00"),
    ):
        label = f"{label}: standard deviation {100 * found['spread'][name]:.1f} %"
        axis.plot([look[name] for look in looks], marker=".", color=color, label=label)
    axis.set(xlabel="look", ylabel="requests/s")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        work = Work(Path(scratch))
        say("building weights and archives")
        work.build()
        looks = measure(work, args.looks, args.seconds)
    found = {
        "machine": machine,
        "setting": asdict(SETTING),
        "clients": CLIENTS,
        "seconds": args.seconds,
        "spread": {name: spread(looks, name) for name in ("requests_per_s", "at_one_pace")},
        "looks": looks,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pace.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(found, args.out / "pace.png")
    print(f"standard deviation {found['spread']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
