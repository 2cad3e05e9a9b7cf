"""What experiments make of their samples."""

from __future__ import annotations

from typing import Any

from smartbatch_load.load.openloop import Shot

from bench.experiments import background


def phase(p99_ms: float | None) -> dict[str, Any]:
    return {"requests": 10, "failed": 0, "p99_ms": p99_ms}


def test_p99_is_of_answers_from_when_they_were_due() -> None:
    shots = [Shot(at, at + 0.5, at + 0.001 * at, True, 200, 0, "") for at in range(100)]
    lost = Shot(100.0, 100.0, 130.0, False, 0, 0, "no answer in time")
    assert background.told([*shots, lost]) == {
        "requests": 101, "failed": 1, "p50_ms": 49.0, "p95_ms": 94.0, "p99_ms": 98.0,
    }  # fmt: skip
    assert background.told([])["p99_ms"] is None


def test_the_background_is_judged_by_the_median_of_the_rounds() -> None:
    rounds = [
        {"measuring": phase(measuring), "after": phase(100.0), "filled_cache": phase(110.0)}
        for measuring in (140.0, 120.0, 900.0)
    ]
    found = background.summary(rounds)
    assert found["p99_over_later"] == {"measuring": 1.4, "filled_cache": 1.1}
    assert found["met"]
    nothing = background.summary([{"measuring": phase(None), "after": phase(100.0), "filled_cache": phase(100.0)}])
    assert (nothing["p99_over_later"]["measuring"], nothing["met"]) == (None, False)
