"""encode: JSON, and its limit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from smartbatch_worker.errors import AnswerTooLarge
from smartbatch_worker.flow.encode import encode_result, is_finite, without_halves

ENOUGH = 10_000


def test_json_keeps_float32_exactly() -> None:
    values = torch.rand(50)
    assert np.array_equal(np.array(json.loads(encode_result(values, ENOUGH))["result"], np.float32), values.numpy())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor([0, 255], dtype=torch.uint8), b"[0,255]"),
        (torch.tensor([True, False]), b"[true,false]"),
        (torch.tensor([2**53 + 1]), b"[9007199254740993]"),
        (torch.tensor([0.1], dtype=torch.float64), b"[0.1]"),
        (torch.tensor([0.1, 3.0], dtype=torch.bfloat16), b"[0.100097656,3.0]"),
        (torch.tensor([0.5], dtype=torch.float16), b"[0.5]"),
        (torch.tensor([1 + 2j, 1j]), b"[[1.0,2.0],[0.0,1.0]]"),
        (torch.tensor(1 + 2j), b"[1.0,2.0]"),
        (torch.tensor([1 + 2j]).conj(), b"[[1.0,-2.0]]"),
        (np.array([1 + 2j]), b"[[1.0,2.0]]"),
        (1j, b"[0.0,1.0]"),
    ],
    ids=str,
)
def test_every_type_has_a_spelling(value: object, text: bytes) -> None:
    assert encode_result(value, ENOUGH) == b'{"result":' + text + b"}"


def test_what_numpy_does_not_know_is_float32_and_the_rest_as_it_is() -> None:
    tensors = {"a": [torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float64)], "b": "text"}
    plain = without_halves(tensors)
    assert [tensor.dtype for tensor in plain["a"]] == [torch.float32, torch.float64]
    assert plain["b"] == "text"


def test_is_finite_looks_inside() -> None:
    assert is_finite({"a": torch.ones(2)})
    assert not is_finite({"a": [torch.tensor([float("nan")])]})
    assert is_finite(torch.ones(2, dtype=torch.int64))
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.complex64):
        assert is_finite(torch.ones(2, dtype=dtype))
        assert not is_finite(torch.full((2,), float("inf"), dtype=dtype))


def test_an_answer_over_the_limit_is_refused_and_not_first_written() -> None:
    values = torch.ones(100)
    size = len(encode_result(values, ENOUGH))
    assert len(encode_result(values, size)) == size
    with pytest.raises(AnswerTooLarge, match=f"at least {size} bytes; at most {size - 1} are sent"):
        encode_result(values, size - 1)
    with pytest.raises(AnswerTooLarge, match="at least 200 bytes"):  # two a number, known before any text is
        encode_result([{"a": values}], 100)
