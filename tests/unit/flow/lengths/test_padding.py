"""Padding: who shares a forward, what is padded to, what is cut off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.lengths.forward_cost import ForwardCost
from smartbatch_worker.flow.lengths.padding import Padding

INPUTS = {"ids": {"dtype": "int64", "shape": ["L"], "pad": 0}}


def padding(**section: Any) -> Padding:
    return Padding(WorkerConfig.resolve({"inputs": INPUTS, **section}, {}))


def cuts(lengths: list[int], most: int = 64, overhead: float = 4.0, **section: Any) -> list[list[int]]:
    its = padding(**section).cuts([{"L": length} for length in lengths], lambda bucket: most, ForwardCost(overhead))
    return [[lengths[at] for at in cut] for cut in its]


def test_items_of_like_length_go_together() -> None:
    assert cuts([200, 5, 9, 31, 9, 30, 12], overhead=20) == [[5, 9, 9, 12], [31, 30][::-1], [200]]


def test_where_forwards_are_dear_padding_is_cheap() -> None:
    assert cuts([1, 8, 30], overhead=1000.0) == [[1, 8, 30]]
    assert cuts([1, 8, 30], overhead=0.0) == [[1], [8], [30]]


def test_padding_of_long_items_is_dearer_where_attention_is() -> None:
    its, lengths = padding(), [{"L": 90}, {"L": 100}, {"L": 290}, {"L": 300}]
    together = its.cuts(lengths, lambda bucket: 64, ForwardCost(60.0))
    assert together == [[0, 1], [2, 3]]
    apart = its.cuts(lengths, lambda bucket: 64, ForwardCost(60.0, 0.02))
    assert apart == [[0, 1], [2], [3]]


@given(st.lists(st.integers(1, 600), min_size=1, max_size=300), st.integers(1, 9), st.sampled_from([None, 64, 700]))
def test_every_item_is_in_one_cut_of_a_bounded_size(lengths: list[int], most: int, max_tokens: int | None) -> None:
    made = cuts(lengths, most, **({} if max_tokens is None else {"max_tokens": max_tokens}))
    assert sorted(length for cut in made for length in cut) == sorted(lengths)
    for cut in made:
        assert len(cut) <= most
        assert max_tokens is None or len(cut) == 1 or len(cut) * max(cut) <= max_tokens


def test_declared_lengths_are_padded_to_and_others_to_the_longest() -> None:
    assert padding(lengths={"L": [8, 16]}).padded([{"L": 3}, {"L": 9}]) == {"L": 16}
    assert padding().padded([{"L": 3}, {"L": 9}]) == {"L": 9}
    assert padding().bucket({"L": 9}) == {"L": 16}


@pytest.mark.parametrize(("side", "kept"), [("right", [0, 1]), ("left", [2, 3])])
def test_what_was_padded_is_cut_off_on_its_side(side: str, kept: list[int]) -> None:
    its = padding(inputs={"ids": {**INPUTS["ids"], "pad_side": side}}, outputs={"a": ["L", 2], "b": [2]})
    answer = {"a": torch.arange(8).reshape(4, 2), "b": torch.zeros(2), "c": torch.zeros(4)}
    cut = its.cut_back(answer, {"L": 2}, {"L": 4})
    assert cut["a"].tolist() == torch.arange(8).reshape(4, 2)[kept].tolist()
    assert (cut["b"].shape, cut["c"].shape) == ((2,), (4,))
    assert its.cut_back(answer, {"L": 4}, {"L": 4}) is answer


def test_an_output_that_is_not_as_declared_is_the_models_fault() -> None:
    its = padding(outputs=["L", 2])
    with pytest.raises(RowError, match="does not have the 4 of L") as caught:
        its.cut_back(torch.zeros(3, 2), {"L": 2}, {"L": 4})
    assert caught.value.status == 500


def test_of_two_letters_the_longest_of_each_counts() -> None:
    inputs = {"a": {"dtype": "int64", "shape": ["L"], "pad": 0}, "b": {"shape": ["M"], "pad": 0.0}}
    its = padding(inputs=inputs)
    made = its.cuts([{"L": 1, "M": 9}, {"L": 9, "M": 1}], lambda bucket: 8, ForwardCost(1000.0))
    assert sorted(made[0]) == [0, 1]
    assert its.padded([{"L": 1, "M": 9}, {"L": 9, "M": 1}]) == {"L": 9, "M": 9}
