"""encode: answers split in order, top classes, JSON and .npy."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from smartbatch_worker.encode import encode_npy, encode_result, is_finite, split, top_classes


def test_split_gives_one_answer_an_item() -> None:
    assert [row.tolist() for row in split(torch.tensor([[1.0], [2.0]]), 2)] == [[1.0], [2.0]]
    tree = {"a": torch.tensor([1.0, 2.0]), "b": (torch.tensor([3, 4]), torch.tensor([5, 6]))}
    assert [json.loads(encode_result(row)) for row in split(tree, 2)] == [
        {"result": {"a": 1.0, "b": [3, 5]}},
        {"result": {"a": 2.0, "b": [4, 6]}},
    ]
    detections = [{"boxes": torch.zeros(n, 4)} for n in range(2)]
    assert [row["boxes"].shape[0] for row in split(detections, 2)] == [0, 1]


@pytest.mark.parametrize("output", [torch.zeros(3), torch.tensor(1.0), [1, 2, 3]])
def test_split_checks_the_length_with_both_numbers(output: object) -> None:
    with pytest.raises(ValueError, match="took 2 items"):
        split(output, 2)


def test_half_precision_answers_are_float32() -> None:
    assert split(torch.ones(1, 2, dtype=torch.bfloat16), 1)[0].dtype == torch.float32


def test_top_classes_are_sorted_with_labels() -> None:
    (classes,) = top_classes([torch.tensor([0.0, 2.0, 1.0])], 2, ["a", "b", "c"])
    assert [c["label"] for c in classes] == ["b", "c"]
    assert classes[0]["index"] == 1
    assert classes[0]["score"] == pytest.approx(float(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1]))
    (unlabelled,) = top_classes([torch.tensor([0.0, 2.0])], 9, None)
    assert [c["label"] for c in unlabelled] == ["1", "0"]


def test_json_keeps_float32_exactly() -> None:
    values = torch.rand(50)
    assert np.array_equal(np.array(json.loads(encode_result(values))["result"], np.float32), values.numpy())


def test_npy_answers() -> None:
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    assert np.load(io.BytesIO(encode_npy(rows, True))).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.load(io.BytesIO(encode_npy(rows[:1], False))).tolist() == [1.0, 2.0]


def test_is_finite_looks_inside() -> None:
    assert is_finite({"a": torch.ones(2)})
    assert not is_finite({"a": [torch.tensor([float("nan")])]})
    assert is_finite(torch.ones(2, dtype=torch.int64))
