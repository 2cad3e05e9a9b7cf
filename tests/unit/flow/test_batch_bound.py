"""The bound before batches whose times are a sum, so that what fits can be said by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest
from smartbatch_worker.flow.batch_bound import BatchBound

TARGET_S = 0.1


def line(a_ms: float, b_ms: float, noise: float = 0.0) -> Callable[[int], float]:
    """Of a batch of n: a·n + b milliseconds, in seconds."""
    draw = random.Random(0).uniform
    return lambda count: (a_ms * count + b_ms) / 1000 * (1 + draw(-noise, noise))


def served(
    bound: BatchBound, takes: Callable[[int], float], num_batches: int, waiting: int = 1000
) -> list[tuple[int, float]]:
    """What batches held, and took, where so many requests always wait."""
    found = []
    for _ in range(num_batches):
        count = min(bound.limit, waiting)
        seconds = takes(count)
        bound.took(count, count, seconds)
        found.append((count, seconds))
    return found


def late(batches: Sequence[tuple[int, float]]) -> int:
    return sum(seconds > TARGET_S for _, seconds in batches)


def test_batches_are_as_large_as_the_target_lets_them_be() -> None:
    bound = BatchBound(TARGET_S, 64)
    served(bound, line(4, 12), 40)
    assert late(found := served(bound, line(4, 12), 200)) <= 10
    assert found[-1][0] in range(17, 23)  # 22 x 4 + 12 = 100 ms


def test_from_light_to_heavy_the_second_batch_is_in_time() -> None:
    """Nothing but single requests was seen, and how forwards batch is not known: as if they shared nothing."""
    bound = BatchBound(TARGET_S, 64)
    served(bound, line(4, 12), 50, waiting=1)
    assert 4 <= bound.limit <= 6
    found = served(bound, line(4, 12), 300)
    assert late(found) <= 0.05 * len(found)
    assert found[-1][0] > 12, "and grows to what fits"


def test_what_forwards_cost_is_known_before_large_batches_come() -> None:
    measured: Mapping[int, float] = {1: 0.016, 2: 0.020, 4: 0.028, 8: 0.044, 16: 0.076}
    bound = BatchBound(TARGET_S, 64, lambda: [measured])
    served(bound, line(4, 12), 50, waiting=1)
    assert 14 <= bound.limit <= 22
    assert late(served(bound, line(4, 12), 100)) <= 5


def test_a_machine_that_becomes_slower_is_followed() -> None:
    bound = BatchBound(TARGET_S, 64)
    served(bound, line(2, 10, 0.05), 100)
    assert bound.limit > 30
    slower = served(bound, line(6, 30, 0.05), 60)
    assert late(slower[:5]) >= 1
    assert late(slower[5:]) <= 3
    assert served(bound, line(2, 10, 0.05), 400)[-1][0] > 25, "and is found to be fast again"


def test_noise_is_kept_within_the_target() -> None:
    bound = BatchBound(TARGET_S, 64)
    served(bound, line(3, 10, 0.25), 100)
    found = served(bound, line(3, 10, 0.25), 1000)
    assert late(found) <= 0.06 * len(found)
    assert sum(count for count, _ in found) / len(found) > 12


def test_a_target_that_no_bound_meets_is_said() -> None:
    bound = BatchBound(TARGET_S, 64)
    assert bound.cannot is None
    served(bound, line(50, 100), 30)
    assert bound.limit == 1
    assert bound.cannot == pytest.approx(0.15)
    served(bound, line(10, 20), 200)
    assert bound.cannot is None
    assert bound.limit > 1


def test_requests_of_many_items_are_told_by_their_items() -> None:
    measured: Mapping[int, float] = {1: 0.010, 8: 0.020}
    bound = BatchBound(TARGET_S, 64, lambda: [measured])
    for _ in range(60):
        bound.took(1, 8, 0.020)
    assert 3 <= bound.limit <= 5  # 8 items are a forward of their own, each 20 ms


def test_without_pressure_nothing_is_bounded() -> None:
    bound = BatchBound(TARGET_S, 32)
    assert bound.limit == 32
    served(bound, line(1, 10), 100)
    assert bound.limit == 32
