"""`smartbatch doctor` on random illnesses and pairs of them: is what it finds what was done, and the gain what it says?

    python -m bench.doctor_blind [--cases 40] [--healthy 20] [--seed 0] [--out bench/results]

Each case registers one model, or two at once, with an illness of random strength, under the load that goes with it.
The doctor sees what it sees of any server. Where what it prints is a command, that is run, and the model watched again
under the same load; what a healthy one is told is a false alarm. Writes doctor_blind.json and .png. About 20 s a case.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from smartbatch.doctor.finding import ON_A_RUNNING_SERVER, Finding, Severity
from smartbatch.doctor.report import Report
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract.machine import num_cores

from bench import diagonal
from bench.clinic import Clinic, Load, of_model
from bench.load import Body, warm_up_jvm
from bench.machine import describe
from bench.progress import say

BODY = json.dumps({"data": [1.0, 2.0, 3.0, 4.0]}).encode()
POISON = json.dumps({"data": [666.0, 2.0, 3.0, 4.0]}).encode()
WATCH_S = 4.0
WARM_UP_S = 3.0
LONGEST_JVM_S = 60.0
PAIRS = 0.3
"""The share of cases with two models."""
WITHIN = 0.3
"""Of what was predicted: a gain (requests/s more, or ms less) that near to it came true."""
FIXED = {"micro_batch": "8"}
"""What can be typed as it is printed; weights, say, nobody has here."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An illness, and how it is made.

    Attributes:
        archive: of which model.
        registration: batch size, delay in ms and workers, of some random strength.
        clients: how many ask.
        body: what they send.
        alone: beside another model's load it would be another one.
    """

    archive: str
    registration: Callable[[random.Random], tuple[int, int, int]]
    clients: Callable[[random.Random], int]
    body: bytes = BODY
    alone: bool = False


def picture() -> bytes:
    """A large JPEG."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((3000, 2000)).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


ILL = {
    "delay-zero": Kind("quick", lambda r: (r.choice((4, 8, 32)), 0, 1), lambda r: r.choice((1, 4))),
    "delay-for-nobody": Kind("quick", lambda r: (r.choice((8, 32)), r.randint(30, 150), 1), lambda r: 1),
    "batch-never-filled": Kind("quick", lambda r: (32, r.randint(40, 150), 1), lambda r: r.randint(3, 6)),
    "batch-of-one": Kind("burns", lambda r: (1, r.choice((1, 10)), 1), lambda r: r.choice((8, 16)), alone=True),
    "forwards-of-one": Kind("singly", lambda r: (r.choice((8, 16)), 5, 1), lambda r: r.choice((8, 16)), alone=True),
    "threads-over-cores": Kind("threads", lambda r: (8, r.choice((1, 5)), r.choice((2, 3))), lambda r: r.randint(1, 4)),
    "workers-over-cores": Kind(
        "heavy", lambda r: (r.choice((2, 4)), 5, num_cores() + r.randint(1, 2)), lambda r: 12, alone=True
    ),
    "decode-bound": Kind(
        "reads", lambda r: (r.choice((4, 8)), 1, 1), lambda r: r.choice((4, 8)), picture(), alone=True
    ),
    "response-bound": Kind("writes", lambda r: (r.choice((4, 8)), 1, 1), lambda r: r.choice((4, 8)), alone=True),
    "queue-too-short": Kind("short", lambda r: (8, 1, 1), lambda r: r.choice((24, 32))),
    "overloaded": Kind("full", lambda r: (4, 1, 1), lambda r: r.choice((40, 60))),
    "near-timeout": Kind("late", lambda r: (2, 1, 1), lambda r: 2),
    "handler-waits": Kind("waits", lambda r: (2, 1, 1), lambda r: r.choice((8, 12))),
    "random-weights": Kind("quick_random", lambda r: (4, 1, 1), lambda r: r.randint(1, 4)),
    "answers-fail": Kind("quick", lambda r: (4, 1, 1), lambda r: r.randint(1, 4), POISON),
    "no-worker": Kind("quick", lambda r: (8, 5, 0), lambda r: 0),
}
"""All that need nothing but a registration and a load; a worker that dies and a port that is open have tests."""
WELL = (
    Kind("quick", lambda r: (r.choice((8, 32)), 1, 1), lambda r: r.randint(1, 16)),
    Kind("burns", lambda r: (r.choice((16, 32)), r.choice((2, 5)), 1), lambda r: r.choice((12, 16))),
    Kind("burns", lambda r: (r.choice((8, 16)), 1, 1), lambda r: r.randint(1, 2)),
)


def build(clinic: Clinic) -> None:
    """All archives."""
    clinic.archive("quick")
    clinic.archive("quick_random", overrides={"weights_source": "random"})
    clinic.archive("burns", burns=0.004)
    clinic.archive("singly", burns=0.004, overrides={"micro_batch": "1"})
    clinic.archive("heavy", burns=0.03)
    clinic.archive("threads", overrides={"threads": str(max(2, num_cores()))})
    clinic.archive("reads", shape="3,*,*", wide="1, 1, 1")
    clinic.archive("writes", wide=20_000)
    clinic.archive("short", sleeps=0.2, overrides={**FIXED, "jobQueueSize": "2"})
    clinic.archive("full", sleeps=0.2, overrides={**FIXED, "jobQueueSize": "16"})
    clinic.archive("late", sleeps=2.2, overrides={**FIXED, "responseTimeout": "4"})
    clinic.archive("waits", sleeps=0.05, overrides=FIXED)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of one model of a case.

    Attributes:
        made: its illness; empty where it is well.
        found: the worst that the doctor named, without notes; empty where there was none.
        predicted, realised: the figure with the change, as the doctor said, and as it was, at the machine's pace when
            the doctor looked; None where there is no gain.
        cured: the illness was gone after the command; None where there was no command.
    """

    case: int
    made: str
    found: str
    evidence: str
    figure: str | None = None
    before: float | None = None
    predicted: float | None = None
    realised: float | None = None
    cured: bool | None = None

    @property
    def gain_off(self) -> float | None:
        """How far the gain was from the predicted one, as a share of that; None where none was predicted."""
        if self.before is None or self.predicted is None or self.realised is None or self.predicted == self.before:
            return None
        return abs((self.realised - self.before) / (self.predicted - self.before) - 1)


def run_case(clinic: Clinic, number: int, made: Sequence[tuple[str, Kind]], rng: random.Random) -> list[Found]:
    """Register, watch, cure, and watch again."""
    with ExitStack() as stack:
        loads: dict[str, Load] = {}
        names: dict[str, str] = {}
        for place, (illness, kind) in enumerate(made):
            name = f"case{number}_{place}"
            batch, delay_ms, workers = kind.registration(rng)
            stack.enter_context(clinic.registered(kind.archive, name, batch=batch, delay_ms=delay_ms, workers=workers))
            names[name] = illness
            if clients := kind.clients(rng):
                loads[name] = Load(clients, kind.body)
        report = _watch(clinic, loads)
        worst = {name: _worst(report, name) for name in names}
        curable = [
            finding
            for finding in worst.values()
            if finding is not None and finding.cure.startswith(ON_A_RUNNING_SERVER)
        ]
        for finding in curable:
            clinic.cure(finding)
        after = _watch(clinic, loads) if curable else None
    paces = {one.model: one.pace_s for one in report.evidence}
    return [_judged(number, names[name], worst[name], name, after, paces[name]) for name in names]


def _watch(clinic: Clinic, loads: dict[str, Load]) -> Report:
    with clinic.asking(loads):
        time.sleep(WARM_UP_S)
        return clinic.examine({}, WATCH_S)


def _worst(report: Report, model: str) -> Finding | None:
    return next((f for f in of_model(report, model) if f.severity > Severity.NOTE), None)


def _judged(
    number: int, made: str, finding: Finding | None, model: str, after: Report | None, pace_s: float | None
) -> Found:
    if finding is None:
        return Found(case=number, made=made, found="", evidence="")
    gain, realised = finding.gain, None
    if after is not None and gain is not None:
        evidence = next(one for one in after.evidence if one.model == model)
        view, longer = evidence.view, evidence.times_at(pace_s)
        p50_ms = None if view.p50_s is None else 1000 * view.p50_s * longer
        realised = view.rps / longer if gain.figure == "requests/s" else p50_ms
    return Found(
        case=number,
        made=made,
        found=finding.illness,
        evidence=finding.evidence,
        figure=None if gain is None else gain.figure,
        before=None if gain is None else gain.before,
        predicted=None if gain is None else gain.after,
        realised=realised,
        cured=None if after is None else finding.illness not in {f.illness for f in of_model(after, model)},
    )


def draw(num_cases: int, num_healthy: int, rng: random.Random) -> list[list[tuple[str, Kind]]]:
    """The cases, in random order: each illness comes as often as any other."""
    bag: list[str] = []
    cases: list[list[tuple[str, Kind]]] = []
    while len(cases) < num_cases:
        if not bag:
            bag = rng.sample(sorted(ILL), len(ILL))
        names = [bag.pop()]
        if rng.random() < PAIRS and not ILL[names[0]].alone:
            names += [name for name in bag if not ILL[name].alone][:1]
        cases.append([(name, ILL[name]) for name in names])
    cases += [[("", rng.choice(WELL))] for _ in range(num_healthy)]
    rng.shuffle(cases)
    return cases


def summary(found: Sequence[Found]) -> dict[str, Any]:
    """The shares that count."""
    ill, well = [f for f in found if f.made], [f for f in found if not f.made]
    off = [f.gain_off for f in ill if f.made == f.found and f.gain_off is not None]
    return {
        "ill": len(ill),
        "top_finding_right": _share([f.made == f.found for f in ill]),
        "healthy": len(well),
        "false_alarms": sum(bool(f.found) for f in well),
        "cured": _share([f.cured for f in ill if f.cured is not None]),
        "gains": len(off),
        "gain_within_30_percent": _share([one <= WITHIN for one in off]),
        "gain_off_median": round(statistics.median(off), 3) if off else None,
    }


def _share(values: Sequence[bool | None]) -> float | None:
    return round(sum(map(bool, values)) / len(values), 3) if values else None


def write(found: Sequence[Found], seed: int, path: Path) -> None:
    """What is known by now."""
    models = [{**asdict(f), "gain_off": f.gain_off} for f in found]
    whole = {"machine": describe(), "seed": seed, "summary": summary(found), "models": models}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def plot(found: Sequence[Found], path: Path) -> None:
    """Realised against predicted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for axis, unit in zip(axes, ("requests/s", "p50, ms"), strict=True):
        points = [f for f in found if f.figure == unit and f.realised is not None]
        for illness in sorted({f.found for f in points}):
            of = [f for f in points if f.found == illness]
            axis.scatter([f.predicted for f in of], [f.realised for f in of], s=28, label=illness)
        diagonal.draw(axis, [value for f in points for value in (f.predicted, f.realised) if value], WITHIN)
        axis.set(xlabel=f"predicted {unit}", ylabel=f"realised {unit}")
        if points:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all cases; write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--healthy", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    cases = draw(args.cases, args.healthy, rng)
    found: list[Found] = []
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        store = Path(scratch) / "store"
        store.mkdir()
        server = start_server(
            ServerSettings(
                model_store=store, run_dir=Path(scratch) / "run", inference_port=0, management_port=0, metrics_port=0
            )
        )
        try:
            clinic = Clinic(server, store)
            say("building archives")
            build(clinic)
            with clinic.registered("quick", "quick", batch=8, delay_ms=1):
                url = f"{server.inference_url}/predictions/quick"
                say(warm_up_jvm(url, Body("application/json", (BODY,)), 8, server.pid, LONGEST_JVM_S))
            for number, made in enumerate(cases, 1):
                results = run_case(clinic, number, made, rng)
                found += results
                write(found, args.seed, args.out / "doctor_blind.json")
                for one in results:
                    gain = "" if one.realised is None else f"; {one.figure} {one.before:.4g} → {one.realised:.4g}"
                    promised = "" if one.predicted is None else f", predicted {one.predicted:.4g}"
                    say(f"{number}/{len(cases)} {one.made or 'well'}: found {one.found or 'nothing'}{gain}{promised}")
        finally:
            server.stop(grace_s=0)
    plot(found, args.out / "doctor_blind.png")
    print(json.dumps(summary(found), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
