"""What a capacity run leaves behind: capacity.json, capacity.csv, capacity.png, written anew after each rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from smartbatch_load.account.files import write_csv, write_json
from smartbatch_load.account.machine import Machine
from smartbatch_load.account.series import percentile
from smartbatch_load.capacity.plot import RatePoint, draw_capacity
from smartbatch_load.load.openloop import Volley

MAX_ERROR_SHARE = 0.001
"""Of the objective: fewer than 0.1 % errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One rate, measured once."""

    rate: float
    """Arrivals a second."""
    ok: bool
    """Whether it met the objective."""
    reason: str
    """Why it did not; empty where it did."""
    requests: int
    errors: int
    achieved_rps: float
    """Correct answers a second, until the last one came."""
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    max_s: float | None
    avg_batch_size: float | None
    lag_p95_s: float | None
    """How late the generator sent."""
    generator_limited: bool
    """The generator could not keep up, so the rung says nothing about the server."""


def judge_rung(rate: float, volley: Volley, slo_s: float) -> Rung:
    """Hold one rate's outcome against the objective."""
    shots = volley.shots
    latencies = sorted(shot.latency_s for shot in shots if shot.ok)
    errors = sum(1 for shot in shots if not shot.ok)
    p95_s = percentile(latencies, 0.95)
    lag_p95_s = percentile(sorted(shot.lag_s for shot in shots), 0.95)
    limited = lag_p95_s is not None and lag_p95_s > max(0.010, 0.1 * slo_s)
    reasons = []
    if volley.backlogged:
        reasons.append("the backlog grew without end")
    if errors >= MAX_ERROR_SHARE * len(shots):
        reasons += [f"{errors} of {len(shots)} failed"] if errors else []
    if p95_s is None:
        reasons.append("no correct answer")
    elif p95_s > slo_s:
        reasons.append(f"p95 {1000 * p95_s:.0f} ms")
    if limited and lag_p95_s is not None:
        reasons.append(f"the generator sent {1000 * lag_p95_s:.0f} ms late")
    shares = [1 / shot.batch_size for shot in shots if shot.batch_size > 0]
    ended = max((shot.ended_s for shot in shots), default=0.0)
    return Rung(
        rate=rate,
        ok=not reasons,
        reason=", ".join(reasons),
        requests=len(shots),
        errors=errors,
        achieved_rps=len(latencies) / ended if ended else 0.0,
        p50_s=percentile(latencies, 0.50),
        p95_s=p95_s,
        p99_s=percentile(latencies, 0.99),
        max_s=latencies[-1] if latencies else None,
        avg_batch_size=len(shares) / sum(shares) if shares else None,
        lag_p95_s=lag_p95_s,
        generator_limited=limited,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the rungs say."""

    knee: float | None
    """Highest rate that met the objective, arrivals a second; None where none did."""
    bounded: bool
    """A higher rate failed; else the knee may lie above all that was tried."""
    confirmed: bool
    """The search came to its end."""
    ended: str
    message: str


def write_capacity(
    folder: Path, rungs: Sequence[Rung], verdict: Verdict, settings: Mapping[str, Any], machine: Machine
) -> None:
    """Write the three files from the rungs so far."""
    warnings = [verdict.message] if verdict.message else []
    if any(rung.generator_limited for rung in rungs):
        warnings.append("the generator could not keep up at some rates: load from another machine")
    if verdict.knee is not None and not verdict.bounded:
        warnings.append("no rate failed: the knee lies above all that was tried")
    write_json(
        folder / "capacity.json",
        {
            "ended": verdict.ended,
            "knee": asdict(verdict),
            "warnings": warnings,
            "rows": [asdict(rung) for rung in rungs],
            "settings": dict(settings),
            "machine": asdict(machine),
        },
    )
    write_csv(folder / "capacity.csv", [f.name for f in fields(Rung)], (astuple(rung) for rung in rungs))
    points = [
        RatePoint(
            rate=rung.rate,
            p50_ms=None if rung.p50_s is None else 1000 * rung.p50_s,
            p95_ms=None if rung.p95_s is None else 1000 * rung.p95_s,
            error_share=rung.errors / rung.requests if rung.requests else 0.0,
            ok=rung.ok,
        )
        for rung in rungs
    ]
    served = settings["served"]
    shown = [f"{k} {served[k]}" for k in ("batch size", "max delay", "workers", "precision") if k in served]
    line = ", ".join([*shown, f"{settings['format']} bodies", f"{settings['duration_s']:g} s at each rate"])
    draw_capacity(
        folder / "capacity.png",
        points,
        slo_ms=settings["slo_p95_ms"],
        knee=verdict.knee,
        title=f"Capacity: {settings['model']}, open loop",
        caption=f"{line}\n{machine}",
    )
