"""Batches are formed as TorchServe forms them; costs are those of the batch, so times can be checked by hand."""

from __future__ import annotations

import dataclasses

import pytest
from smartbatch.simulation.batches import simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.load import ClosedLoop, OpenLoop
from smartbatch.simulation.score import NUM_REQUESTS, grid, score

# 10 ms for a batch, however many it holds; one core, nothing beside the worker.
EVEN = Costs(cores=1, forward_s={1: 0.010, 64: 0.010}, micro_batch=64)
LINEAR = Costs(cores=1, forward_s={1: 0.010, 2: 0.020}, micro_batch=64)


def setting(batch_size: int, delay_ms: int, workers: int = 1) -> Setting:
    return Setting(batch_size=batch_size, max_batch_delay_ms=delay_ms, workers=workers)


def test_a_lone_request_waits_the_whole_delay() -> None:
    found = simulate(OpenLoop((0.0,)), setting(8, 50), EVEN)
    assert found.p50_s == pytest.approx(0.060)
    assert found.avg_batch_size == 1


def test_the_delay_runs_from_the_first_request_on() -> None:
    # The third comes 60 ms after the first, too late, though 20 ms after the second.
    found = simulate(OpenLoop((0.0, 0.040, 0.060)), setting(8, 50), EVEN, num_requests=2)
    assert found.avg_batch_size == 2
    assert found.p95_s == pytest.approx(0.060)


def test_a_full_batch_leaves_at_once() -> None:
    found = simulate(OpenLoop((0.0, 0.001)), setting(2, 500), EVEN)
    assert found.p95_s == pytest.approx(0.011)


def test_a_backlog_is_drained_without_waiting() -> None:
    found = simulate(ClosedLoop(32), setting(16, 1000), EVEN)
    assert found.avg_batch_size == pytest.approx(16, abs=0.5)
    assert found.requests_per_s == pytest.approx(1600, rel=0.05)


def test_a_delay_of_zero_caps_batches_at_two() -> None:
    assert simulate(ClosedLoop(32), setting(16, 0), EVEN).avg_batch_size == pytest.approx(2, abs=0.1)
    assert simulate(ClosedLoop(32), setting(1, 0), EVEN).avg_batch_size == 1


def test_clients_fewer_than_a_batch_pay_the_delay_each_time() -> None:
    found = simulate(ClosedLoop(4), setting(8, 40), EVEN)
    assert found.avg_batch_size == pytest.approx(4)
    assert found.p50_s == pytest.approx(0.050)


def test_clients_that_are_all_answered_at_once_send_again() -> None:
    busy_edge = dataclasses.replace(EVEN, edge_cpu_s=0.001)
    found = simulate(ClosedLoop(4), setting(32, 20), busy_edge)
    # 1 ms until the first is back, 20 of delay, 10 of batch.
    assert found.requests_per_s == pytest.approx(4 / 0.031, rel=0.01)


def test_those_that_pause_come_that_much_later() -> None:
    found = simulate(ClosedLoop(1, think_s=0.040), setting(1, 1), EVEN)
    assert found.requests_per_s == pytest.approx(1 / 0.050, rel=0.01)
    assert found.p50_s == pytest.approx(0.010)


def test_one_worker_gathers_at_a_time() -> None:
    # Both are free when the first request comes; the second request joins it, and the other worker has nothing.
    found = simulate(OpenLoop((0.0, 0.010)), setting(2, 50, workers=2), EVEN)
    assert found.avg_batch_size == 2


def test_what_finds_the_queue_full_is_refused() -> None:
    burst = OpenLoop(tuple(index / 1e6 for index in range(100)))
    found = simulate(burst, setting(4, 1), EVEN, queue_capacity=10)
    assert found.num_refused == 100 - 4 - 10


def test_two_workers_share_the_cores() -> None:
    one = simulate(ClosedLoop(64), setting(8, 1), LINEAR)
    two = simulate(ClosedLoop(64), setting(8, 1, workers=2), LINEAR)
    assert two.requests_per_s == pytest.approx(one.requests_per_s, rel=0.1)


def test_what_frontend_and_clients_cost_is_taken_from_the_workers() -> None:
    costs = Costs(cores=2, forward_s={1: 0.010}, micro_batch=1, edge_cpu_s=0.010)
    # 10 ms of the worker's CPU and 10 ms beside it, on two cores: 100 requests a second at most.
    assert simulate(ClosedLoop(16), setting(4, 5), costs).requests_per_s == pytest.approx(100, rel=0.05)


def test_forwards_are_of_a_micro_batch_at_most() -> None:
    costs = Costs(cores=1, forward_s={1: 1.0, 4: 2.0}, micro_batch=4)
    assert sum(costs.batch(9)) == pytest.approx(2 + 2 + 1)
    assert costs.forward(2.5) == pytest.approx(1.5)
    assert costs.forward(8) == pytest.approx(4.0)


def test_what_a_forward_costs_at_0_items_is_not_divided_among_threads() -> None:
    costs = Costs(cores=2, forward_s={1: 0.030, 2: 0.040, 4: 0.060}, forward_threads=2, micro_batch=4)
    serial_s, divided_s = costs.batch(4)
    assert serial_s == pytest.approx(0.018)  # 20 ms by the line, and no more than SERIAL_AT_MOST of one item's
    assert serial_s + divided_s / 2 == pytest.approx(0.060)


def test_the_best_setting_keeps_the_objective() -> None:
    settings = list(grid((1, 8, 64), (1, 50), (1,)))
    scored = score(settings, ClosedLoop(64), EVEN, slo_p95_s=0.100)
    assert len(scored) == len(settings)
    assert scored[0].outcome.p95_s <= 0.100
    assert scored[0].setting.batch_size == 64


def test_settings_that_a_load_cannot_tell_apart_are_scored_as_each_would_be() -> None:
    some = [*grid((1, 4, 5, 6, 32), (1, 20), (1, 2))]
    for load in (ClosedLoop(4), OpenLoop(tuple(0.004 * n for n in range(100)))):
        for one in score(some, load, LINEAR):
            assert one.outcome == simulate(load, one.setting, LINEAR, num_requests=NUM_REQUESTS)


@pytest.mark.parametrize("users", [0, -1])
def test_a_load_of_nobody_is_refused(users: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ClosedLoop(users)
    with pytest.raises(ValueError, match="above 0"):
        OpenLoop.poisson(users, 10)
