"""What the Open Inference Protocol is told about a model's tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from smartbatch.archive.tensors import inputs_of, outputs_of


def told(answer: Any, other: Any = None) -> list[tuple[str, str, list[int]]]:
    found = outputs_of(answer, answer if other is None else other)
    return [(entry["name"], entry["datatype"], entry["shape"]) for entry in found]


def test_the_batch_stands_in_front_and_free_sizes_are_free() -> None:
    assert inputs_of((3, None, 224)) == [{"name": "data", "datatype": "FP32", "shape": [-1, 3, -1, 224]}]
    assert inputs_of(None) == []


def test_outputs_have_the_names_of_their_parts() -> None:
    numbers, classes = torch.zeros(2, 5), torch.tensor(7)
    assert told(numbers) == [("result", "FP32", [-1, 2, 5])]
    assert told({"boxes": numbers, 1: classes}) == [("boxes", "FP32", [-1, 2, 5]), ("1", "INT64", [-1])]
    assert told([numbers, classes]) == [("result_0", "FP32", [-1, 2, 5]), ("result_1", "INT64", [-1])]


def test_sizes_that_follow_the_inputs_are_free() -> None:
    assert told(torch.zeros(21, 8, 8), torch.zeros(21, 16, 16)) == [("result", "FP32", [-1, 21, -1, -1])]
    assert told(torch.zeros(4), torch.zeros(2, 4)) == [("result", "FP32", [-1, -1])]


def test_what_is_found_in_an_item_is_of_any_number() -> None:
    found = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}
    shapes = [(entry["name"], entry["shape"]) for entry in outputs_of(found, found, are_lists=True)]
    assert shapes == [("boxes", [-1, -1, 4]), ("scores", [-1, -1])]


@pytest.mark.parametrize(
    "answer",
    ["text", [torch.zeros(1), "text"], torch.zeros(1, dtype=torch.complex64), {"a": {"b": torch.zeros(1)}}, [], {}],
)
def test_what_is_no_tensor_is_not_told(answer: Any) -> None:
    assert told(answer) == []
