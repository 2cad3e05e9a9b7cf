"""The search against servers that differ from what the model says of them, each a replay with other costs."""

from __future__ import annotations

import dataclasses
import random

import pytest
from smartbatch.simulation.batches import simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.load import ClosedLoop
from smartbatch.tuning.search import MOST_TRIALS, Measured, Objective, Search, settings

FITTED = Costs(
    cores=2,
    forward_s={1: 0.022, 2: 0.040, 4: 0.072, 8: 0.140, 16: 0.290},
    micro_batch=8,
    decode_s=0.001,
    request_s=0.0005,
    batch_s=0.001,
    edge_s=0.003,
    edge_cpu_s=0.001,
    spread=0.05,
)
FEW = {1: 0.010, 2: 0.011, 4: 0.013, 8: 0.018, 16: 0.028}
"""Of a forward that batches well."""
ONE_BY_ONE = Setting(batch_size=1, max_batch_delay_ms=1, workers=1)
LATE = Setting(batch_size=32, max_batch_delay_ms=100, workers=1)
LOAD = ClosedLoop(32)


def really(costs: Costs, setting: Setting, seed: int) -> Measured:
    """What a server of such costs does, with a machine's noise of a few percent."""
    outcome = simulate(LOAD, setting, costs)
    noise = random.Random(f"{seed} {setting}").uniform(0.98, 1.02)
    return Measured(
        requests_per_s=outcome.requests_per_s * noise,
        p50_s=outcome.p50_s / noise,
        p95_s=outcome.p95_s / noise,
        avg_batch_size=outcome.avg_batch_size,
    )


def searched(fitted: Costs, truth: Costs, now: Setting, objective: Objective, seed: int = 0) -> Search:
    search = Search(now, fitted, LOAD, objective, cores=2)
    while (following := search.next_setting()) is not None:
        setting, why = following
        search.record(setting, why, really(truth, setting, seed))
    return search


def slower(costs: Costs, factor: float) -> Costs:
    return dataclasses.replace(costs, forward_s={n: factor * s for n, s in costs.forward_s.items()})


@pytest.mark.parametrize(
    ("now", "shape", "off", "slo_s"),
    [
        (ONE_BY_ONE, FITTED.forward_s, 0.8, None),
        (ONE_BY_ONE, FEW, 1.25, 0.5),
        (LATE, FEW, 0.8, None),
        (LATE, FITTED.forward_s, 1.0, 0.5),
    ],
    ids=["one by one", "one by one, batches well", "a long delay, batches well", "a long delay"],
)
def test_few_trials_find_nearly_the_best(
    now: Setting, shape: dict[int, float], off: float, slo_s: float | None
) -> None:
    fitted = dataclasses.replace(FITTED, forward_s=shape)
    truth = slower(fitted, off)
    objective = Objective(slo_s)
    oracle = max(
        objective.worth(outcome.requests_per_s, outcome.p95_s)
        for outcome in (simulate(LOAD, setting, truth) for setting in settings(now, 2))
    )
    search = searched(fitted, truth, now, objective)
    assert len(search.trials) <= MOST_TRIALS
    found = search.best()
    outcome = simulate(LOAD, found.setting, truth)
    if oracle > 0:
        assert objective.worth(outcome.requests_per_s, outcome.p95_s) >= 0.94 * oracle, search.trials
    assert search.trials[0].setting == now
    assert len({trial.setting for trial in search.trials}) == len(search.trials), "nothing is tried twice"


def test_an_objective_out_of_reach_is_said_before_anything_is_tried() -> None:
    search = Search(ONE_BY_ONE, FITTED, LOAD, Objective(0.05), cores=2)
    search.record(ONE_BY_ONE, "as it is", really(FITTED, ONE_BY_ONE, 0))
    found = search.out_of_reach()
    assert found is not None
    _, nearest = found
    assert nearest.p95_s > 0.05
    for slo_s in (None, 1.0):
        easy = Search(ONE_BY_ONE, FITTED, LOAD, Objective(slo_s), cores=2)
        easy.record(ONE_BY_ONE, "as it is", really(FITTED, ONE_BY_ONE, 0))
        assert easy.out_of_reach() is None


def test_a_setting_that_is_the_best_is_kept() -> None:
    objective = Objective()
    best = searched(FITTED, FITTED, ONE_BY_ONE, objective).best().setting
    again = searched(FITTED, FITTED, best, objective)
    kept = again.best().measured.requests_per_s
    assert kept <= 1.05 * again.trials[0].measured.requests_per_s


def test_workers_stay_where_the_cores_are_not_known() -> None:
    assert {setting.workers for setting in settings(ONE_BY_ONE, None)} == {1}
    assert {setting.workers for setting in settings(ONE_BY_ONE, 3)} == {1, 2, 3}
    assert len(settings(ONE_BY_ONE, 3)) >= 200
