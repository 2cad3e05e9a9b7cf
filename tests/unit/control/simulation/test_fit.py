"""Costs read from figures that the model itself made are those it made them from, nearly."""

from __future__ import annotations

import dataclasses
from statistics import median

import pytest
from smartbatch.simulation.batches import simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.fit import Observed, counted, explain, fit
from smartbatch.simulation.load import ClosedLoop, Load, OpenLoop
from smartbatch.simulation.score import grid

TRUE = Costs(
    cores=2,
    forward_s={1: 0.024, 2: 0.044, 4: 0.080, 8: 0.150, 16: 0.310},
    micro_batch=8,
    decode_s=0.002,
    request_s=0.0005,
    batch_s=0.001,
    edge_s=0.004,
    edge_cpu_s=0.001,
    spread=0.1,
)
MEASURED_ALONE = {1: 0.020, 2: 0.037, 4: 0.068, 8: 0.125}
"""A quieter machine's times: the shape is right, and the speed is not."""


def observed(load: Load, setting: Setting, true: Costs = TRUE) -> Observed:
    """What a server of such costs would tell."""
    outcome = simulate(load, setting, true)
    threads = true.cores // setting.workers
    size = outcome.avg_batch_size
    divided_s = true.forward(min(8, size)) - true.serial_s
    forward_s = (true.serial_s + divided_s / threads) * max(1, size / 8)
    stage_s = {
        "decode": size * true.decode_s / threads,
        "stack": true.batch_s,
        "forward": forward_s,
        "encode": size * true.request_s,
    }
    return Observed(
        setting=setting,
        cores=true.cores,
        requests_per_s=outcome.requests_per_s,
        avg_batch_size=size,
        items=1.0,
        avg_forward_size=min(8, size),
        mean_s=outcome.p50_s,
        p50_s=outcome.p50_s,
        p95_s=outcome.p95_s,
        queue_s=max(0.0, outcome.p50_s - sum(stage_s.values()) - true.edge_s),
        stage_s=stage_s,
        measured_forward_s=MEASURED_ALONE,
        measured_threads=1,
        micro_batch=8,
        worker_cpu_s=None,
        edge_cpu_s=true.edge_cpu_s,
    )


@pytest.mark.parametrize(
    ("load", "setting"),
    [
        (ClosedLoop(32), Setting(batch_size=4, max_batch_delay_ms=10, workers=1)),
        (ClosedLoop(64), Setting(batch_size=32, max_batch_delay_ms=10, workers=2)),
        (OpenLoop.poisson(20, 1000), Setting(batch_size=8, max_batch_delay_ms=50, workers=2)),
    ],
    ids=["one worker, saturated", "two workers, saturated", "thin traffic"],
)
def test_other_settings_are_predicted_from_one(load: Load, setting: Setting) -> None:
    costs = fit(observed(load, setting), load)
    errors = [
        abs(simulate(load, other, costs).requests_per_s / simulate(load, other, TRUE).requests_per_s - 1)
        for other in grid((1, 4, 8, 16, 32), (1, 10, 50), (1, 2))
    ]
    assert median(errors) < 0.05
    assert max(errors) < 0.15


@pytest.mark.parametrize("users", [1, 4, 32])
def test_a_fit_gives_back_what_it_was_fitted_to(users: int) -> None:
    load, setting = ClosedLoop(users), Setting(batch_size=32, max_batch_delay_ms=20, workers=2)
    seen = observed(load, setting)
    again = simulate(load, setting, fit(seen, load))
    assert again.requests_per_s == pytest.approx(seen.requests_per_s, rel=0.03)
    assert again.p50_s == pytest.approx(seen.p50_s, rel=0.05)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_ran_beside_it_is_half_believed_where_cpu_was_counted(workers: int) -> None:
    """A fifth fewer answers than the CPU that they took accounts for: of other settings a tenth fewer are predicted."""
    load = ClosedLoop(32)
    now, other = (Setting(batch_size=size, max_batch_delay_ms=10, workers=workers) for size in (8, 1))
    seen = observed(load, now)
    cpu_s = sum(TRUE.batch(8)) / 8
    slower = {name: 1.25 * getattr(seen, name) for name in ("mean_s", "p50_s", "p95_s", "queue_s")}
    quiet = dataclasses.replace(seen, worker_cpu_s=cpu_s)
    disturbed = dataclasses.replace(quiet, requests_per_s=seen.requests_per_s / 1.25, **slower)
    less, much = (simulate(load, other, fit(each, load)).requests_per_s for each in (disturbed, quiet))
    assert much / less == pytest.approx(1.25**0.5, rel=0.02)


@pytest.mark.parametrize("skewed", [0.8, 1.0, 1.2])
def test_of_clients_that_wait_a_latency_says_no_more_than_the_rate(skewed: float) -> None:
    """By Little's law it is the same: what is outside workers and queue is what the server counts of it."""
    load, setting = ClosedLoop(8), Setting(batch_size=4, max_batch_delay_ms=10, workers=2)
    seen = observed(load, setting)
    costs = fit(dataclasses.replace(seen, p50_s=skewed * seen.p50_s), load)
    assert costs.edge_s == pytest.approx(counted(seen).edge_s)


def test_without_measured_times_a_forward_costs_what_was_seen() -> None:
    load, setting = ClosedLoop(32), Setting(batch_size=8, max_batch_delay_ms=10, workers=1)
    seen = observed(load, setting)
    blind = Observed(**{**{name: getattr(seen, name) for name in seen.__slots__}, "measured_forward_s": {}})
    predicted = simulate(load, setting, fit(blind, load))
    assert predicted.requests_per_s == pytest.approx(seen.requests_per_s, rel=0.05)


def test_busy_workers_are_taken_for_clients_that_wait() -> None:
    busy = observed(ClosedLoop(32), Setting(batch_size=8, max_batch_delay_ms=10, workers=1))
    load, _ = explain(busy)
    assert isinstance(load, ClosedLoop)
    assert load.users == pytest.approx(32, abs=1)


def test_cores_that_are_busy_are_taken_for_clients_that_wait_though_workers_wait_for_a_core() -> None:
    seen = observed(ClosedLoop(12), Setting(batch_size=2, max_batch_delay_ms=5, workers=2))
    rests = dataclasses.replace(seen, stage_s={"forward": 0.001})
    assert rests.busy < 0.1
    assert len(rests.loads()) > 1
    assert dataclasses.replace(rests, is_crowded=True).loads() == [ClosedLoop(12)]


@pytest.mark.parametrize("longer", [1.0, 1.1, 1.2])
def test_time_that_nobody_counted_explains_nothing(longer: float) -> None:
    """Four who come together, more or less, and wait for a fifth; chance and 50 ms of something would fit as well."""
    quick = dataclasses.replace(TRUE, forward_s={1: 0.001, 8: 0.002}, decode_s=0.0002, batch_s=0.0)
    now = Setting(batch_size=32, max_batch_delay_ms=110, workers=1)
    seen = observed(ClosedLoop(4, think_s=0.017), now, quick)
    load, costs = explain(dataclasses.replace(seen, measured_forward_s=quick.forward_s, p95_s=longer * seen.p95_s))
    assert isinstance(load, ClosedLoop)
    assert simulate(load, dataclasses.replace(now, max_batch_delay_ms=2), costs).p50_s < 0.02


@pytest.mark.parametrize(
    "load",
    [ClosedLoop(3), ClosedLoop(5), ClosedLoop(4, think_s=0.03), OpenLoop.poisson(5, 1000), OpenLoop.poisson(20, 1000)],
    ids=["3", "5", "4 that pause", "5/s", "20/s"],
)
def test_a_few_that_wait_come_together_and_chance_does_not(load: Load) -> None:
    """Where workers rest, batches and latencies tell who comes; what a shorter delay brings depends on it."""
    now, then = (Setting(batch_size=32, max_batch_delay_ms=delay_ms, workers=1) for delay_ms in (80, 2))
    found, costs = explain(observed(load, now))
    if isinstance(load, ClosedLoop):
        assert isinstance(found, ClosedLoop)
        assert found.users == load.users
        assert found.think_s == pytest.approx(load.think_s, abs=0.005)
    else:
        assert isinstance(found, OpenLoop)
    truth = simulate(load, then, TRUE)
    assert simulate(found, then, costs).p50_s == pytest.approx(truth.p50_s, rel=0.2)
