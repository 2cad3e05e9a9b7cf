"""plan: every item once, right order."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_worker.flow.batch import Item, plan


def items_of(sizes: list[int], deadlines: list[float] | None = None) -> list[Item]:
    deadlines = deadlines or [math.inf] * len(sizes)
    return [Item(torch.zeros(size), row, 0, due) for row, (size, due) in enumerate(zip(sizes, deadlines, strict=True))]


def shape_of(item: Item) -> tuple[int, ...]:
    return tuple(item.inputs.shape)


@given(st.lists(st.integers(1, 4), max_size=40), st.integers(1, 9))
def test_every_item_is_planned_once_in_groups_of_one_shape(sizes: list[int], most: int) -> None:
    items = items_of(sizes)
    micro_batches = plan(items, shape_of, lambda shape: most)
    planned = [item.row for micro_batch in micro_batches for item in micro_batch.items]
    assert sorted(planned) == list(range(len(sizes)))
    for micro_batch in micro_batches:
        assert 1 <= len(micro_batch.items) <= most
        assert {tuple(item.inputs.shape) for item in micro_batch.items} == {micro_batch.shape}


def test_cuts_are_even() -> None:
    assert [len(m.items) for m in plan(items_of([1] * 9), shape_of, lambda shape: 8)] == [5, 4]


def test_earliest_deadline_first() -> None:
    planned = plan(items_of([1, 1, 2, 1], [30.0, math.inf, 20.0, 10.0]), shape_of, lambda shape: 2)
    assert [[item.row for item in m.items] for m in planned] == [[3, 0], [2], [1]]
