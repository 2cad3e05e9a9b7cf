"""What a tuning found: a table, the command that serves it, and tuning.json."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smartbatch_worker.contract import environment

from smartbatch.simulation.batches import Outcome
from smartbatch.simulation.costs import Setting
from smartbatch.simulation.load import ClosedLoop
from smartbatch.tuning.run import Tuning, spelled
from smartbatch.tuning.search import Trial

UNEVEN = 1.03
"""A machine whose pace changes by so much is told of."""
JSON_FILE, PICTURE = "tuning.json", "tuning.png"


def as_dict(found: Tuning) -> dict[str, Any]:
    """As plain data: each trial, all that the model said, and what it was told."""
    best, search = found.best, found.search
    far = found.out_of_reach
    return {
        "model": found.settings.model,
        "slo_p95_ms": _ms(found.settings.objective.slo_p95_s),
        "load": str(found.load),
        "clients": found.load.users if isinstance(found.load, ClosedLoop) else None,
        "rate": found.settings.objective.rate,
        "seconds_a_trial": found.settings.seconds,
        "seconds": round(found.seconds, 1),
        "interrupted": found.interrupted,
        "trials": [_trial(trial) for trial in found.trials],
        "best": None if best is None else asdict(best.setting),
        "meets_objective": best is not None and _meets(found, best),
        "out_of_reach": None if far is None else {"nearest": asdict(far[0]), **_outcome(far[1])},
        "serving": None if found.serving is None else asdict(found.serving),
        "serve": None if best is None else serve_command(found.settings.model, best.setting),
        "retune": None if best is None else retune_command(found.settings.model, best.setting),
        "requests": found.outcomes,
        "costs": None if search is None else asdict(search.costs),
        "predicted": [] if search is None else [_predicted(*item) for item in search.predicted.items()],
    }


def text(found: Tuning) -> str:
    """For people."""
    best = found.best
    if best is None:
        return "nothing was measured"
    lines = ["   requests/s   p95 ms   predicted        setting"]
    for number, trial in enumerate(found.trials, 1):
        said = trial.predicted
        predicted = "" if said is None else f"{said.requests_per_s:.1f} at {1000 * said.p95_s:.0f}"
        mark = "*" if trial.setting == best.setting else " "
        rate, p95_ms = trial.measured.requests_per_s, 1000 * trial.measured.p95_s
        what = f"{spelled(trial.setting)} ({trial.why})"
        lines.append(f"{number}{mark} {rate:10.1f} {p95_ms:8.0f}   {predicted:<14}   {what}")
    paces = [trial.measured.pace for trial in found.trials]
    if max(paces) > UNEVEN * min(paces):
        lines.append(
            "the machine's pace changed meanwhile, between "
            f"{min(paces):.2f} and {max(paces):.2f} of the first's, at which all rates and p95 are given"
        )
    lines += _misses(found, best)
    lost = {status: count for status, count in found.outcomes.items() if not status.startswith("2")}
    answered = sum(found.outcomes.values()) - sum(lost.values())
    lines.append(
        f"{answered} requests were answered meanwhile, {sum(lost.values())} were not{f': {lost}' if lost else ''}"
    )
    if found.serving is not None:
        lines.append(f"{found.settings.model} now serves {spelled(found.serving)}")
    if found.serving != best.setting:
        lines.append(f"to have the best: {retune_command(found.settings.model, best.setting)}")
    lines.append(f"from the next start on: {serve_command(found.settings.model, best.setting)}")
    return "\n".join(lines)


def _meets(found: Tuning, trial: Trial) -> bool:
    return found.settings.objective.is_met(trial.measured.requests_per_s, trial.measured.p95_s)


def _misses(found: Tuning, best: Trial) -> list[str]:
    """That nothing met the objective, if so."""
    objective, far = found.settings.objective, found.out_of_reach
    limit = "" if objective.slo_p95_s is None else f"p95 within {1000 * objective.slo_p95_s:.0f} ms"
    if far is not None:
        setting, outcome = far
        if not objective.bears(outcome.requests_per_s):
            far_from = f"{found.load} are out of reach: the most by the model is {outcome.requests_per_s:.1f}"
        else:
            far_from = (
                f"{limit} is out of reach for {found.load}: the nearest by the model is {1000 * outcome.p95_s:.0f} ms"
            )
        return [
            f"{far_from}, {spelled(setting)}. Nothing more was tried: fewer requests, a faster forward, more machines "
            "would help"
        ]
    if _meets(found, best):
        return []
    if not objective.bears(best.measured.requests_per_s):
        return [f"none answered {found.load}; * comes nearest"]
    return [f"none kept {limit}; * comes nearest"]


def serve_command(model: str, setting: Setting) -> str:
    """What starts a server with it."""
    variables = "".join(f"{environment.PREFIX}{key.upper()}={value} " for key, value in setting.handler)
    return f"{variables}smartbatch serve --model {model} {_options(setting)}"


def retune_command(model: str, setting: Setting) -> str:
    """What gives it to a running server."""
    changes = "".join(f" --set {key}={value}" for key, value in setting.handler)
    return f"smartbatch retune {model} {_options(setting)}{changes}"


def write(fields: dict[str, Any], folder: Path) -> None:
    """Write tuning.json: what `as_dict` gave."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_FILE).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def _options(setting: Setting) -> str:
    delay_ms = max(1, setting.max_batch_delay_ms)
    return f"--batch-size {setting.batch_size} --max-delay-ms {delay_ms} --workers {setting.workers}"


def _trial(trial: Trial) -> dict[str, Any]:
    said = trial.predicted
    return {
        **asdict(trial.setting),
        "why": trial.why,
        "requests_per_s": round(trial.measured.requests_per_s, 2),
        "p50_ms": _ms(trial.measured.p50_s),
        "p95_ms": _ms(trial.measured.p95_s),
        "avg_batch_size": round(trial.measured.avg_batch_size, 2),
        "pace": round(trial.measured.pace, 3),
        "predicted": None if said is None else _outcome(said),
    }


def _predicted(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    return {**asdict(setting), **_outcome(outcome)}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"requests_per_s": round(outcome.requests_per_s, 2), "p95_ms": _ms(outcome.p95_s)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)
