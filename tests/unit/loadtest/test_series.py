"""Statistics of a run, on numbers that can be checked by eye."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_load.account.records import Request, Tick
from smartbatch_load.account.series import ServerSample, client_batches, failure_counts, per_second, percentile, totals


def request(end_unix_s: float, latency_s: float = 0.1, *, ok: bool = True, batch_size: int = 1) -> Request:
    return Request(end_unix_s, latency_s, ok, 200 if ok else 503, batch_size, "npy", "" if ok else "HTTP 503")


def sample(unix_s: float, requests: float, batches: float, queue_depth: float | None = None) -> ServerSample:
    return ServerSample(unix_s, requests, 0, batches, requests, queue_depth)


def test_percentiles_are_nearest_rank() -> None:
    values = [float(v) for v in range(1, 101)]
    assert [percentile(values, q) for q in (0.01, 0.5, 0.95, 0.99, 1.0)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 0.95) == 7
    assert percentile([], 0.5) is None


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_splits_its_values(values: list[float], share: float) -> None:
    values.sort()
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-6
    assert sum(v < found for v in values) < share * len(values) + 1e-6


def test_an_answer_counts_in_the_second_it_came() -> None:
    rows = per_second([request(100.2), request(100.9), request(101.0)], [], [], 100.0)
    assert [row.rps for row in rows] == [2, 1]


def test_failures_are_counted_apart_and_have_no_latency() -> None:
    rows = per_second([request(100.5, 0.2), request(100.6, 9.0, ok=False)], [], [], 100.0)
    assert (rows[0].rps, rows[0].failures, rows[0].p99_s) == (1, 1, 0.2)


def test_users_of_all_processes_add_up_and_stay_until_told_otherwise() -> None:
    ticks = [Tick(100.1, "a", 3, 0.0), Tick(100.2, "b", 4, 0.5), Tick(102.1, "a", 5, 0.0)]
    rows = per_second([], ticks, [], 100.0)
    assert [row.users for row in rows] == [7, 7, 9]
    assert [row.lag_s for row in rows] == [0.5, 0, 0]


def test_batch_size_of_a_second_is_what_the_counters_gained() -> None:
    samples = [sample(99.5, 10, 10), sample(100.5, 50, 15, 7.0), sample(101.5, 50, 15, 0.0)]
    rows = per_second([], [], samples, 100.0)
    assert [row.avg_batch_size for row in rows] == [8, None]
    assert [row.queue_depth for row in rows] == [7, 0]


def test_a_second_without_answers_has_no_percentiles() -> None:
    rows = per_second([request(102.5)], [], [], 100.0)
    assert [row.p50_s for row in rows] == [None, None, 0.1]


def test_totals_take_batches_from_the_server() -> None:
    found = totals(
        [request(100 + i / 10, (i + 1) / 100) for i in range(10)], 2.0, [sample(99, 5, 5), sample(102, 15, 9)]
    )
    assert (found.requests, found.failures, found.batches, found.avg_batch_size) == (10, 0, 4, 2.5)
    assert (found.rps, found.p50_s, found.p95_s, found.max_s) == (5.0, 0.05, 0.1, 0.1)


def test_totals_without_counters_take_batches_from_the_answers() -> None:
    found = totals([request(1, batch_size=4) for _ in range(8)], 1.0)
    assert (found.batches, found.avg_batch_size) == (2, 4)
    assert totals([], 0.0).batches is None


@given(st.lists(st.integers(1, 64), min_size=1, max_size=50))
def test_shares_of_batches_add_up_to_the_batches(sizes: list[int]) -> None:
    answers = [request(0, batch_size=size) for size in sizes for _ in range(size)]
    random.Random(0).shuffle(answers)
    assert client_batches(answers) == pytest.approx(len(sizes))


def test_failures_are_grouped_most_frequent_first() -> None:
    failures = [request(0, ok=False), request(0, ok=False), Request(0, 0, False, 0, 0, "json", "no answer")]
    assert failure_counts([*failures, request(0)]) == {"npy: HTTP 503": 2, "json: no answer": 1}
