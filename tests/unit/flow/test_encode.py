"""encode: top classes, JSON and .npy, and their limit."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from smartbatch_worker.errors import AnswerTooLarge, ModelRejected
from smartbatch_worker.flow.encode import encode_npy, encode_result, is_finite, top_classes

ENOUGH = 10_000


def test_top_classes_are_sorted_with_labels() -> None:
    (classes,) = top_classes([torch.tensor([0.0, 2.0, 1.0])], 2, ["a", "b", "c"])
    assert [c["label"] for c in classes] == ["b", "c"]
    assert classes[0]["index"] == 1
    assert classes[0]["score"] == pytest.approx(float(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1]))
    (unlabelled,) = top_classes([torch.tensor([0.0, 2.0])], 9, None)
    assert [c["label"] for c in unlabelled] == ["1", "0"]


def test_json_keeps_float32_exactly() -> None:
    values = torch.rand(50)
    assert np.array_equal(np.array(json.loads(encode_result(values, ENOUGH))["result"], np.float32), values.numpy())


def test_npy_answers() -> None:
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    assert np.load(io.BytesIO(encode_npy(rows, True, ENOUGH))).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.load(io.BytesIO(encode_npy(rows[:1], False, ENOUGH))).tolist() == [1.0, 2.0]


def test_is_finite_looks_inside() -> None:
    assert is_finite({"a": torch.ones(2)})
    assert not is_finite({"a": [torch.tensor([float("nan")])]})
    assert is_finite(torch.ones(2, dtype=torch.int64))


def test_an_answer_over_the_limit_is_refused_and_not_first_written() -> None:
    values = torch.ones(100)
    size = len(encode_result(values, ENOUGH))
    assert len(encode_result(values, size)) == size
    with pytest.raises(AnswerTooLarge, match=f"at least {size} bytes; at most {size - 1} are sent"):
        encode_result(values, size - 1)
    with pytest.raises(AnswerTooLarge, match="at least 200 bytes"):  # two a number, known before any text is
        encode_result([{"a": values}], 100)
    with pytest.raises(AnswerTooLarge, match="at least 400 bytes"):
        encode_npy([values], False, 399)
    with pytest.raises(AnswerTooLarge, match="at least 528 bytes"):  # its header counts
        encode_npy([values], False, 400)


def test_npy_refuses_what_is_no_array() -> None:
    with pytest.raises(ModelRejected, match="several tensors"):
        encode_npy([{"a": torch.ones(1)}], False, ENOUGH)
    with pytest.raises(ModelRejected, match=r"several shapes \(\[1\], \[2\]\)"):
        encode_npy([torch.ones(2), torch.ones(1)], True, ENOUGH)
