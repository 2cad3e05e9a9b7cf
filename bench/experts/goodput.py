"""Goodput under an objective: the highest rate of random arrivals at which p95 is within 250 ms.

A closed loop waits for slow answers; users do not. Each contestant's rate is climbed and then halved in on, one probe
of each in turns, so that all of them meet the same moods of the machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from smartbatch_load.capacity.files import Rung, judge_rung
from smartbatch_load.capacity.knee import KneeSearch
from smartbatch_load.load.openloop import Volley, arrivals

from bench import backends
from bench.cells import OBJECTIVE_MS, Cell
from bench.judge import Judge
from bench.open_loop import OpenLoop
from bench.processes import wait_idle
from bench.progress import say

RAMP_UP_S = 1.0
"""Answers to what was sent before do not count: the first batches are small."""
START, GROWTH, TOLERANCE, QUICK_TOLERANCE = 0.6, 1.2, 0.06, 0.12
"""The first rate as a share of that in a closed loop, then by which factor, and how closely the knee is known."""


def measure(judge: Judge, cells: Sequence[Cell], closed_loop: Mapping[str, float], seconds: float) -> None:
    """Find the goodput of each cell that is prepared; results go to `judge.goodput`.

    Args:
        judge: whose servers run.
        cells: of the table goodput.
        closed_loop: requests a second that each cell's server makes with many connections.
        seconds: that count, at each rate.
    """
    tolerance = QUICK_TOLERANCE if judge.args.quick else TOLERANCE
    searches = {
        cell.key: KneeSearch(start=START * closed_loop[cell.key], growth=GROWTH, tolerance=tolerance)
        for cell in cells
        if cell.key in judge.samples and cell.key not in judge.skipped
    }
    number = 0
    while unknown := [cell for cell in cells if cell.key in searches and searches[cell.key].next_rate() is not None]:
        number += 1
        first = number % len(unknown)
        for cell in [*unknown[first:], *unknown[:first]]:
            search = searches[cell.key]
            rate = search.next_rate()
            assert rate is not None
            rung = probe(judge, judge.running[cell.backend], cell, rate, seconds, seed=number)
            search.record(rate, rung.ok)
            found = judge.goodput.setdefault(cell.key, {"requests_per_s": None, "rungs": []})
            found["requests_per_s"] = search.highest_held
            found["rungs"].append(dataclasses.asdict(rung))
            say(f"{cell.key}: {rate:.1f}/s: {_told(rung)}")
        judge.after_round(judge)


def probe(judge: Judge, backend: backends.Backend, cell: Cell, rate: float, seconds: float, seed: int) -> Rung:
    """One rate, the other servers paused."""
    body = backend.body(judge.work.bodies[cell.workload])
    times = list(arrivals(rate, RAMP_UP_S + seconds, poisson=True, seed=seed))
    # At the objective about rate x objective requests are outstanding (Little); thrice that is overload.
    most = 64 + math.ceil(3 * rate * OBJECTIVE_MS / 1000)
    with judge.turn(backend):
        volley = OpenLoop(backend.url(cell.model), body).fire(times, most)
        wait_idle(backend.pid)
    return judge_rung(rate, after_ramp_up(volley), OBJECTIVE_MS / 1000)


def after_ramp_up(volley: Volley) -> Volley:
    """Without what was sent before RAMP_UP_S."""
    return dataclasses.replace(volley, shots=[shot for shot in volley.shots if shot.intended_s >= RAMP_UP_S])


def _told(rung: Rung) -> str:
    p95 = "none" if rung.p95_s is None else f"{1000 * rung.p95_s:.0f} ms"
    return f"p95 {p95}, {'held' if rung.ok else f'failed: {rung.reason}'}"
