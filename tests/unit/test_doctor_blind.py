"""What `python -m bench.doctor_blind` draws and how it counts."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from smartbatch.doctor.illnesses import OF_MODELS

from bench.doctor_blind import ILL, WELL, Found, draw, summary


def test_every_illness_comes_as_often_as_any_other() -> None:
    cases = draw(3 * len(ILL), 20, random.Random(0))
    first = Counter(case[0][0] for case in cases)
    assert first.pop("") == 20
    assert set(first) == set(ILL) <= set(OF_MODELS)
    assert set(first.values()) == {3}
    assert any(len(case) == 2 for case in cases)
    assert all(not kind.alone for case in cases if len(case) > 1 for _, kind in case)


def test_what_is_drawn_is_valid() -> None:
    rng = random.Random(1)
    for kind in (*ILL.values(), *WELL):
        batch, delay_ms, workers = kind.registration(rng)
        assert batch >= 1
        assert delay_ms >= 0
        assert workers >= 0
        assert kind.clients(rng) >= 0


def found(made: str, named: str, **more: float) -> Found:
    return Found(case=1, made=made, found=named, evidence="", **more)  # type: ignore[arg-type]


def test_a_gain_counts_where_the_illness_was_right_and_a_name_for_a_healthy_one_is_a_false_alarm() -> None:
    counted = summary(
        [
            found("batch-of-one", "batch-of-one", before=50.0, predicted=100.0, realised=114.0),
            found("delay-zero", "delay-zero", before=50.0, predicted=20.0, realised=30.0),
            found("overloaded", "handler-waits", before=50.0, predicted=100.0, realised=100.0),
            found("no-worker", ""),
            found("", ""),
            found("", "delay-zero"),
        ]
    )
    assert (counted["ill"], counted["top_finding_right"]) == (4, 0.5)
    assert (counted["healthy"], counted["false_alarms"]) == (2, 1)
    assert (counted["gains"], counted["gain_within_30_percent"]) == (2, 0.5)
    assert counted["gain_off_median"] == pytest.approx((0.28 + 1 / 3) / 2, abs=1e-3)


def test_nothing_measured_is_no_share() -> None:
    assert summary([])["top_finding_right"] is None
