"""From runs to rows: one measured window a round, one median row a setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from smartbatch_load.account.agreement import compare
from smartbatch_load.account.generator import judge_generator
from smartbatch_load.account.records import Request
from smartbatch_load.account.series import totals
from smartbatch_load.load.closed_loop import ClosedLoopRun
from smartbatch_load.study.grid import Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One setting, measured once."""

    number: int
    setting: Setting
    rps: float
    p50_s: float
    p95_s: float
    failures: int
    requests: int
    avg_batch_size: float | None
    discrepancy: float | None
    """Largest difference between client's and server's counts, as a share; over the whole run."""
    generator_cpu_percent: float | None
    warning: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One setting: medians over its rounds, and how far the rounds lay apart."""

    batch_size: int
    rps: float
    p50_s: float
    p95_s: float
    failures: int
    """Over all rounds."""
    max_delay_ms: int
    workers: int
    precision: str
    format: str
    rounds: int
    rps_min: float
    rps_max: float
    p95_min_s: float
    p95_max_s: float
    avg_batch_size: float | None
    speedup: float | None
    """Throughput over that of the smallest batch size with everything else equal."""
    discrepancy: float | None
    """The largest of any round."""
    generator_cpu_percent: float | None
    """Highest mean of any round, percent of a core."""


def window(requests: Sequence[Request], start_unix_s: float, end_unix_s: float) -> tuple[list[Request], float]:
    """What ended in a window, and the time it took.

    Answers come a batch at a time, so a window that starts and ends anywhere would count up to a batch too many or
    too few. It is therefore moved to start and end with an answer.

    Args:
        requests: ascending by end.
        start_unix_s: wanted start.
        end_unix_s: wanted end.
    """
    before = [r.end_unix_s for r in requests if r.end_unix_s <= start_unix_s]
    inside = [r for r in requests if start_unix_s < r.end_unix_s <= end_unix_s]
    if not inside:
        return [], end_unix_s - start_unix_s
    start = before[-1] if before else start_unix_s
    return inside, inside[-1].end_unix_s - start


def measure(number: int, setting: Setting, run: ClosedLoopRun, warmup_s: float, duration_s: float) -> Round | None:
    """Look at the measured window of a run; None where nothing was answered in it."""
    start = run.start_unix_s + warmup_s
    inside, elapsed_s = window(run.requests, start, start + duration_s)
    total = totals(inside, elapsed_s)
    if total.p50_s is None or total.p95_s is None:
        return None
    agreement = compare(run.requests, run.elapsed_s, run.samples)
    differences = [
        a.discrepancy for a in (agreement.answers, agreement.requests, agreement.batches) if a.discrepancy is not None
    ]
    health = judge_generator(run.cpu_percents, run.ticks)
    return Round(
        number=number,
        setting=setting,
        rps=total.rps,
        p50_s=total.p50_s,
        p95_s=total.p95_s,
        failures=sum(1 for r in run.requests if not r.ok),
        requests=total.requests,
        avg_batch_size=total.avg_batch_size,
        discrepancy=max(differences, default=None),
        generator_cpu_percent=health.cpu_mean_percent,
        warning=health.warning,
    )


def summarise(rounds: Sequence[Round]) -> list[Row]:
    """One row a setting, in the order of their first rounds."""
    groups: dict[Setting, list[Round]] = {}
    for entry in rounds:
        groups.setdefault(entry.setting, []).append(entry)
    medians = {setting: median(r.rps for r in group) for setting, group in groups.items()}
    return [_row(setting, group, medians) for setting, group in groups.items()]


def _row(setting: Setting, group: Sequence[Round], medians: dict[Setting, float]) -> Row:
    alike = [s for s in medians if _rest(s) == _rest(setting)]
    base = medians[min(alike, key=lambda s: s.batch_size)]
    batches = [r.avg_batch_size for r in group if r.avg_batch_size is not None]
    return Row(
        batch_size=setting.batch_size,
        rps=medians[setting],
        p50_s=median(r.p50_s for r in group),
        p95_s=median(r.p95_s for r in group),
        failures=sum(r.failures for r in group),
        max_delay_ms=setting.max_delay_ms,
        workers=setting.workers,
        precision=setting.precision,
        format=setting.format,
        rounds=len(group),
        rps_min=min(r.rps for r in group),
        rps_max=max(r.rps for r in group),
        p95_min_s=min(r.p95_s for r in group),
        p95_max_s=max(r.p95_s for r in group),
        avg_batch_size=median(batches) if batches else None,
        speedup=medians[setting] / base if base else None,
        discrepancy=max((r.discrepancy for r in group if r.discrepancy is not None), default=None),
        generator_cpu_percent=max(
            (r.generator_cpu_percent for r in group if r.generator_cpu_percent is not None), default=None
        ),
    )


def _rest(setting: Setting) -> tuple[int, int, str, str]:
    return (setting.max_delay_ms, setting.workers, setting.precision, setting.format)
