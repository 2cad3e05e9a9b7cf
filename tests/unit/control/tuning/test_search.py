"""The search against servers that differ from what the model says of them, each a replay with other costs."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from smartbatch.simulation import score as scoring
from smartbatch.simulation.batches import Outcome, simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.load import ClosedLoop, Load
from smartbatch.simulation.score import score
from smartbatch.tuning.arrivals import by_chance
from smartbatch.tuning.run import with_larger
from smartbatch.tuning.search import (
    FREE,
    MOST_LOOKS,
    MOST_TRIALS,
    ONCE_MORE,
    TO_TIME_BATCHES,
    Measured,
    Objective,
    Search,
    Trial,
    settings,
)

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


@pytest.fixture(scope="module", autouse=True)
def each_is_replayed_once() -> Iterator[None]:
    """The same servers are predicted in one test after the other: a replay is as it was the last time."""
    known: dict[str, Outcome] = {}

    def remembered(load: Load, setting: Setting, costs: Costs, num_requests: int) -> Outcome:
        key = repr((load, setting, costs, num_requests))
        if key not in known:
            known[key] = simulate(load, setting, costs, num_requests=num_requests)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "simulate", remembered)
        yield


def really(costs: Costs, setting: Setting, seed: int, load: Load = LOAD) -> Measured:
    """What a server of such costs does, with a machine's noise of a few percent."""
    outcome = simulate(load, setting, costs)
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
        objective.worth(one.outcome.requests_per_s, one.outcome.p95_s) for one in score(settings(now, 2), LOAD, truth)
    )
    search = searched(fitted, truth, now, objective)
    assert len(search.trials) <= MOST_TRIALS
    found = search.best()
    outcome = simulate(LOAD, found.setting, truth)
    if oracle > 0:
        assert objective.worth(outcome.requests_per_s, outcome.p95_s) >= 0.94 * oracle, search.trials
    assert search.trials[0].setting == now
    looks = Counter(trial.setting for trial in search.trials)
    assert max(looks.values()) <= MOST_LOOKS
    assert sum(trial.why == ONCE_MORE for trial in search.trials) == len(search.trials) - len(looks)


@pytest.mark.parametrize("slo_s", [None, 0.25])
def test_what_batches_gain_is_found_where_none_was_ever_timed(slo_s: float | None) -> None:
    """Workers registered with batches of one have timed forwards of one, by which batching gains nothing."""
    truth = dataclasses.replace(FITTED, forward_s=FEW)
    blind = dataclasses.replace(truth, forward_s={1: FEW[1]})
    search = Search(ONE_BY_ONE, blind, LOAD, Objective(slo_s), cores=2)
    while (following := search.next_setting()) is not None:
        setting, why = following
        assert not search.is_blind or search.out_of_reach() is None, "nobody knows yet"
        search.record(setting, why, really(truth, setting, 0))
        if why == TO_TIME_BATCHES:
            search.learn(truth)
    assert [trial.why for trial in search.trials][:2] == ["as it is", TO_TIME_BATCHES]
    assert search.trials[1].setting.workers == ONE_BY_ONE.workers, "what is timed is of as many threads as before"
    outcomes = [one.outcome for one in score(settings(ONE_BY_ONE, 2), LOAD, truth)]
    oracle = max(search.objective.worth(outcome.requests_per_s, outcome.p95_s) for outcome in outcomes)
    found = simulate(LOAD, search.best().setting, truth)
    assert search.objective.worth(found.requests_per_s, found.p95_s) >= 0.94 * oracle > 0


FREED = (("micro_batch", "auto"),)


def of_one(costs: Costs) -> Costs:
    """Its forwards have one item each."""
    return dataclasses.replace(costs, micro_batch=1, forward_s={1: costs.forward_s[1]})


@pytest.mark.parametrize("gains", [True, False])
def test_a_forward_that_is_held_is_tried_free_and_left_so_if_that_is_better(gains: bool) -> None:
    """One trial, at the present batches; what it finds, the others begin with."""
    held = of_one(dataclasses.replace(FITTED, forward_s=FEW))
    free = dataclasses.replace(FITTED, forward_s=FEW) if gains else slower(held, 1.1)
    now = Setting(batch_size=8, max_batch_delay_ms=5, workers=1)
    search = Search(now, held, LOAD, Objective(None), cores=2, free=FREED)
    while (following := search.next_setting()) is not None:
        setting, why = following
        search.record(setting, why, really(free if setting.handler else held, setting, 0))
        if why == FREE and search.is_better_free():
            search.learn(free, setting.handler)
    assert [trial.why for trial in search.trials][:2] == ["as it is", FREE]
    assert search.trials[1].setting == dataclasses.replace(now, handler=FREED)
    assert len(search.trials) <= MOST_TRIALS
    assert {trial.setting.handler for trial in search.trials[2:]} == ({FREED} if gains else {()})
    assert search.best().setting.handler == (FREED if gains else ())
    truth = free if gains else held
    oracle = max(one.outcome.requests_per_s for one in score(settings(now, 2), LOAD, truth))
    assert simulate(LOAD, search.best().setting, truth).requests_per_s >= 0.94 * oracle


def test_nothing_is_out_of_reach_while_the_forward_may_be_free() -> None:
    held = of_one(FITTED)
    search = Search(ONE_BY_ONE, held, LOAD, Objective(0.05), cores=2, free=FREED)
    search.record(ONE_BY_ONE, "as it is", really(held, ONE_BY_ONE, 0))
    assert search.out_of_reach() is None
    setting, why = search.next_setting() or pytest.fail("the forward is to be tried")
    search.record(setting, why, really(held, setting, 0))
    search.learn(FITTED, setting.handler)
    assert search.out_of_reach() is not None


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


@pytest.mark.parametrize(("rate", "slo_s"), [(20.0, None), pytest.param(45.0, 0.4, marks=pytest.mark.slow)])
def test_at_a_rate_it_is_the_lowest_p95(rate: float, slo_s: float | None) -> None:
    """Clients that wait would be served by large batches; these are not there to fill them."""
    load = by_chance(rate)
    objective = Objective(slo_s, rate=load.requests_per_s)
    now = Setting(batch_size=32, max_batch_delay_ms=200, workers=1)
    search = Search(now, FITTED, load, objective, cores=2)
    while (following := search.next_setting()) is not None:
        setting, why = following
        search.record(setting, why, really(FITTED, setting, 0, load))
    found = search.best()
    assert objective.is_met(found.measured.requests_per_s, found.measured.p95_s)
    best_s = min(one.outcome.p95_s for one in score(settings(now, 2), load, FITTED))
    assert simulate(load, found.setting, FITTED).p95_s <= 1.1 * best_s
    assert found.measured.p95_s < 0.8 * search.trials[0].measured.p95_s


def test_a_rate_that_nothing_bears_is_said_before_anything_is_tried() -> None:
    load = by_chance(200.0)
    search = Search(ONE_BY_ONE, FITTED, load, Objective(rate=load.requests_per_s), cores=2)
    search.record(ONE_BY_ONE, "as it is", really(FITTED, ONE_BY_ONE, 0, load))
    found = search.out_of_reach()
    assert found is not None
    _, nearest = found
    assert 30 < nearest.requests_per_s < 150
    assert search.best().setting == ONE_BY_ONE


def test_what_bears_the_rate_is_better_than_what_does_not() -> None:
    objective = Objective(0.1, rate=100.0)
    worths = [objective.worth(*seen) for seen in ((95, 0.05), (95, 0.09), (95, 0.2), (95, 5.0), (80, 0.01), (20, 0.01))]
    assert worths == sorted(worths, reverse=True)
    assert [objective.is_met(*seen) for seen in ((95, 0.05), (95, 0.2), (80, 0.01))] == [True, False, False]


def test_of_equal_rates_the_one_that_answers_sooner_is_the_best() -> None:
    search = Search(LATE, FITTED, LOAD, Objective(0.5), cores=2)
    # The third is faster by more than chance, the fourth misses the objective.
    for size, rate, p95_s, wanted in (
        (8, 53.2, 0.46, 8),
        (16, 53.1, 0.35, 16),
        (32, 54.5, 0.45, 32),
        (64, 60.0, 0.6, 32),
    ):
        seen(search, size, rate, p95_s)
        assert search.best().setting.batch_size == wanted


def seen(search: Search, size: int, rate: float, p95_s: float, why: str = "") -> None:
    """A look at batches of so many."""
    setting = Setting(batch_size=size, max_batch_delay_ms=10, workers=2)
    measured = Measured(requests_per_s=rate, p50_s=0.3, p95_s=p95_s, avg_batch_size=6.0)
    search.trials.append(Trial(setting=setting, why=why, predicted=None, measured=measured))


def test_what_chance_may_have_told_apart_is_looked_at_again_and_the_mean_decides() -> None:
    search = Search(LATE, FITTED, LOAD, Objective(0.5), cores=2)
    for size, rate in ((8, 49.0), (16, 54.0), (32, 40.0), (4, 52.0)):
        seen(search, size, rate, 0.4)
    following = search.next_setting()
    assert following is not None
    assert (following[0].batch_size, following[1]) == (16, ONCE_MORE), "the last one was seen a moment ago"
    seen(search, 16, 46.0, 0.4, ONCE_MORE)
    assert search.best().setting.batch_size == 4
    assert search.best().measured.requests_per_s == 52.0
    following = search.next_setting()
    assert following is not None
    assert (following[0].batch_size, following[1]) == (4, ONCE_MORE)
    seen(search, 4, 40.0, 0.6, ONCE_MORE)
    best = search.best()
    assert (best.setting.batch_size, best.measured.requests_per_s) == (16, 50.0)
    assert search.next_setting() is None, "six looks are all"


def test_what_misses_the_objective_by_no_more_than_chance_is_looked_at_again() -> None:
    search = Search(LATE, FITTED, LOAD, Objective(0.5), cores=2)
    for size, rate, p95_s in ((8, 55.0, 0.4), (16, 60.0, 0.52), (32, 70.0, 0.9), (4, 30.0, 0.3)):
        seen(search, size, rate, p95_s)
    following = search.next_setting()
    assert following is not None
    assert following[1] == ONCE_MORE
    assert following[0].batch_size in (8, 16)


def test_what_promises_more_is_tried_before_anything_is_looked_at_again() -> None:
    search = Search(LATE, FITTED, LOAD, Objective(None), cores=2)
    for size, rate in ((8, 36.0), (16, 35.0), (2, 34.0), (4, 35.5)):
        seen(search, size, rate, 0.4)
    cheap = dataclasses.replace(FITTED, forward_s=FEW)
    search.learn(cheap)
    search.predicted |= {trial.setting: simulate(LOAD, trial.setting, FITTED) for trial in search.trials}
    following = search.next_setting()
    assert following is not None
    assert following[1] == "best by the model, corrected"


def test_larger_forwards_that_were_timed_before_are_scaled_to_those_timed_now() -> None:
    def merged(now: dict[int, float], before: dict[int, float], *, is_free: bool = True) -> tuple[object, int]:
        small = dataclasses.replace(FITTED, forward_s=now, micro_batch=max(now))
        costs = with_larger(small, dataclasses.replace(FITTED, forward_s=before), is_free=is_free)
        return costs.forward_s, costs.micro_batch

    assert merged({1: 2.0, 4: 4.0}, {1: 1.5, 4: 2.0, 8: 3.0}) == ({1: 2.0, 4: 4.0, 8: 6.0}, 8)
    assert merged({4: 4.0}, {1: 1.0, 8: 3.0}) == ({1: 1.0, 4: 4.0, 8: 3.0}, 8), "nothing tells how much faster"
    two = merged({1: 2.0, 2: 3.0}, {1: 2.0, 2: 3.0, 4: 5.0, 8: 11.0})
    assert two == ({1: 2.0, 2: 3.0, 4: 5.0, 8: 11.0}, 4), "batches of two hold no others to two at a time"
    assert merged({1: 2.0, 2: 3.0}, {1: 2.0, 2: 3.0, 4: 5.0}, is_free=False)[1] == 2


def test_a_best_that_is_clear_is_not_looked_at_again() -> None:
    search = Search(LATE, FITTED, LOAD, Objective(0.5), cores=2)
    for size, rate, p95_s in ((8, 60.0, 0.4), (16, 50.0, 0.3), (32, 70.0, 0.9), (4, 30.0, 0.3)):
        seen(search, size, rate, p95_s)
    following = search.next_setting()
    assert following is None or following[1] != ONCE_MORE


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
