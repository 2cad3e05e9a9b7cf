"""The search for the knee, and how one rate is judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_load.capacity.files import judge_rung
from smartbatch_load.capacity.knee import KneeSearch
from smartbatch_load.load.openloop import Shot, Volley, arrivals


def search(knee: float, start: float = 8.0) -> tuple[KneeSearch, list[float]]:
    """Search a server that holds exactly up to `knee`."""
    found, tried = KneeSearch(start=start), []
    while (rate := found.next_rate()) is not None:
        tried.append(rate)
        found.record(rate, rate <= knee)
        assert len(tried) < 100
    return found, tried


@given(st.floats(0.5, 50_000), st.floats(0.5, 1000))
def test_the_knee_is_found_within_the_tolerance(knee: float, start: float) -> None:
    found, tried = search(knee, start)
    assert found.highest_held is not None
    assert found.highest_held <= knee < found.highest_held * 1.051
    assert tried.count(found.highest_held) == 2
    assert found.is_bounded


def test_a_server_that_holds_nothing_has_no_knee() -> None:
    found, tried = search(0.0)
    assert found.highest_held is None
    assert min(tried) >= 0.1


def test_a_server_faster_than_the_highest_rate_is_not_bounded() -> None:
    found = KneeSearch(start=8, max_rate=20)
    tried = []
    while (rate := found.next_rate()) is not None:
        tried.append(rate)
        found.record(rate, True)
    assert tried == [8, 12, 18, 20, 20]
    assert not found.is_bounded


def test_a_knee_that_does_not_hold_again_is_given_up() -> None:
    found = KneeSearch(start=10, growth=2, tolerance=0.5)
    for rate, held in [(10, True), (20, False), (200**0.5, True)]:
        assert found.next_rate() == pytest.approx(rate)
        found.record(found.next_rate() or 0, held)
    confirm = found.next_rate()
    assert confirm == pytest.approx(200**0.5)
    found.record(confirm or 0, False)
    assert found.highest_held == 10
    assert found.next_rate() == 10


def test_a_start_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="start rate"):
        KneeSearch(start=0)
    with pytest.raises(ValueError, match="growth"):
        KneeSearch(start=1, growth=1)


def test_arrivals_are_even_or_random_with_the_same_average() -> None:
    assert list(arrivals(4, 1.0, poisson=False, seed=0)) == [0, 0.25, 0.5, 0.75]
    random = list(arrivals(100, 100, poisson=True, seed=0))
    assert len(random) == pytest.approx(10_000, rel=0.05)
    assert random == list(arrivals(100, 100, poisson=True, seed=0))


def shots(count: int, latency_s: float = 0.05, lag_s: float = 0.0, failed: int = 0) -> list[Shot]:
    return [
        Shot(i * 0.1, i * 0.1 + lag_s, i * 0.1 + latency_s, i >= failed, 200, 4, "" if i >= failed else "HTTP 503")
        for i in range(count)
    ]


def volley(sent: list[Shot], *, backlogged: bool = False) -> Volley:
    return Volley(shots=sent, planned=len(sent), backlogged=backlogged)


def test_a_rate_within_the_objective_holds() -> None:
    rung = judge_rung(10, volley(shots(100)), slo_s=0.1)
    assert rung.ok
    assert (rung.reason, rung.requests, rung.errors, rung.avg_batch_size) == ("", 100, 0, 4)
    assert rung.p95_s == pytest.approx(0.05)


def test_latency_counts_from_the_intended_send_time() -> None:
    late = Shot(intended_s=1.0, sent_s=3.0, ended_s=3.1, ok=True, status=200, batch_size=1, error="")
    assert late.latency_s == pytest.approx(2.1)
    assert late.lag_s == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("sent", "backlogged", "why"),
    [
        (shots(100, latency_s=0.5), False, "p95 500 ms"),
        (shots(100, failed=1), False, "1 of 100 failed"),
        (shots(100), True, "backlog"),
        ([], False, "no correct answer"),
        (shots(100, lag_s=0.04), False, "the generator sent 40 ms late"),
    ],
)
def test_a_rate_that_fails_says_why(sent: list[Shot], backlogged: bool, why: str) -> None:
    rung = judge_rung(10, volley(sent, backlogged=backlogged), slo_s=0.1)
    assert not rung.ok
    assert why in rung.reason


def test_one_error_in_more_than_a_thousand_is_allowed() -> None:
    assert judge_rung(10, volley(shots(1001, failed=1)), slo_s=0.1).ok
    assert not judge_rung(10, volley(shots(1000, failed=1)), slo_s=0.1).ok
