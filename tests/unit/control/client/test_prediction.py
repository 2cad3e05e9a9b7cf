"""What one makes of an answer."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save as save_tensors
from smartbatch.client import ClassScore, Prediction

CAT = {"label": "cat", "index": 281, "score": 0.75}
DOG = {"label": "dog", "index": 207, "score": 0.25}


def of_json(value: Any) -> Prediction:
    return Prediction(json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"}, 1, 0.1)


def of_file(content: bytes, kind: str) -> Prediction:
    return Prediction(content, {"Content-Type": f"application/x-{kind}"}, 1, 0.1)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_the_envelope_is_taken_off() -> None:
    for value in ({"result": [1]}, {"predictions": [1]}, [1]):
        assert of_json(value).result == [1]
    assert of_json({"boxes": [1], "result": [2]}).result == {"boxes": [1], "result": [2]}


@pytest.mark.parametrize(
    ("value", "dtype"), [([[1.5, 2]], np.float64), ([[1, 2]], np.int64), ([[True, False]], np.bool_)]
)
def test_numbers_of_json(value: Any, dtype: type[np.generic]) -> None:
    array = of_json({"result": value}).array()
    assert (array.dtype, array.tolist()) == (np.dtype(dtype), value)


def test_files_keep_their_types() -> None:
    half = np.array([1.5], np.float16)
    buffer = io.BytesIO()
    np.save(buffer, half)
    for answer in (
        of_file(buffer.getvalue(), "npy"),
        of_file(npz(result=half), "npz"),
        of_file(save({"result": half}), "safetensors"),
    ):
        assert (answer.array().dtype, answer.array().tolist()) == (np.dtype(np.float16), [1.5])


def test_several_tensors() -> None:
    answer = of_file(npz(logits=np.ones(2), hidden=np.zeros(3)), "npz")
    assert {name: array.shape for name, array in answer.arrays().items()} == {"logits": (2,), "hidden": (3,)}
    with pytest.raises(ValueError, match=r"has 2 tensors \(logits, hidden\): use arrays"):
        answer.array()
    parts = of_json({"result": {"a": [1], "b": [[2]]}}).arrays()
    assert {name: array.shape for name, array in parts.items()} == {"a": (1,), "b": (1, 1)}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (of_json({"result": ["a"]}), "not made of numbers"),
        (of_json({"result": [CAT]}), "not made of numbers"),
        (of_json({"result": [[1], [1, 2]]}), "several shapes"),
        (of_file(save_tensors({"x": torch.ones(1, dtype=torch.bfloat16)}), "safetensors"), "numpy cannot hold"),
    ],
    ids=["text", "classes", "ragged", "bf16"],
)
def test_what_is_no_array(answer: Prediction, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        answer.array()


@pytest.mark.parametrize("value", [[CAT, DOG], [[CAT, DOG]]], ids=["alone", "one of a list"])
def test_classes(value: Any) -> None:
    found = of_json({"result": value}).classes()
    assert found == [ClassScore("cat", 281, 0.75), ClassScore("dog", 207, 0.25)]
    assert found[0].label == "cat"


def test_the_best_class_alone() -> None:
    assert of_json({"result": CAT}).classes() == [ClassScore("cat", 281, 0.75)]


@pytest.mark.parametrize(
    ("value", "text"), [([1.0], "not of classes"), ([[CAT], [DOG]], "of 2 items"), ([], "not of classes")]
)
def test_what_is_no_classes(value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        of_json({"result": value}).classes()
