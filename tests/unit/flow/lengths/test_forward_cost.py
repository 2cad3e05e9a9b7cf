"""What a forward costs, fitted to what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_worker.flow.lengths.forward_cost import ForwardCost, Timed, fit

SIZES, LENGTHS = (1, 2, 4, 8, 16), (32, 128)


def timed(fixed: float, token: float, square: float, lengths: tuple[int, ...] = LENGTHS) -> list[Timed]:
    """Seconds as the formula has them."""
    return [(n, length, fixed + n * (token * length + square * length * length)) for length in lengths for n in SIZES]


def test_what_was_measured_is_found_again() -> None:
    cost = fit(timed(10e-3, 130e-6, 0.1e-6))
    assert cost.fixed == pytest.approx(10e-3 / 130e-6)
    assert cost.square == pytest.approx(0.1e-6 / 130e-6)
    assert cost.of_item(100) == pytest.approx((130e-6 * 100 + 0.1e-6 * 100**2) / 130e-6)


def test_at_one_length_there_is_no_square() -> None:
    cost = fit(timed(10e-3, 130e-6, 0.0, lengths=(32,)))
    assert cost.fixed == pytest.approx(10e-3 / 130e-6)
    assert cost.square == 0


def test_nothing_costs_less_than_nothing() -> None:
    """Long items that are cheaper a token than short ones, and forwards of several that take longer than one each."""
    assert fit(timed(10e-3, 130e-6, -0.2e-6)).square == 0
    assert fit([(1, 32, 1.0), (2, 32, 2.2), (4, 32, 4.8)]).fixed == 0


@pytest.mark.parametrize("measured", [[], [(1, 32, 0.01)], [(1, 32, 0.01), (1, 128, 0.03)]])
def test_where_too_little_was_measured_it_is_the_default(measured: list[Timed]) -> None:
    assert fit(measured) == ForwardCost()


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 4096), st.floats(1e-6, 100)), max_size=20))
def test_any_measurement_gives_a_cost(measured: list[Timed]) -> None:
    cost = fit(measured)
    assert cost.fixed >= 0
    assert cost.square >= 0
    assert cost.of_item(10) >= 10
