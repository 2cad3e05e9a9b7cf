"""Answers in the Open Inference Protocol, taken apart as a client does."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import torch
from smartbatch_worker.errors import AnswerTooLarge, MalformedBody, ModelRejected
from smartbatch_worker.flow.answers.open_inference import Served, write
from smartbatch_worker.formats.open_inference.asked import Asked, AskedOutput

SERVED = Served("m", "1.0")
LABELS = ["ant", "bee", "cat"]


def written(answers: list[Any], asked: Asked = Asked(), *, many: bool = True) -> tuple[dict[str, Any], bytes]:  # noqa: B008
    """The JSON, and what follows it."""
    body, length = write(answers, many, asked, SERVED, LABELS, 10_000)
    if length is None:
        return json.loads(body), b""
    return json.loads(body[:length]), body[length:]


def test_tensors_in_json_are_flat_and_say_their_shape() -> None:
    document, _ = written([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])], Asked("7"))
    output = {"name": "result", "datatype": "FP32", "shape": [2, 1, 2], "data": [1, 2, 3, 4]}
    assert document == {"model_name": "m", "model_version": "1.0", "id": "7", "outputs": [output]}
    document, _ = written([torch.tensor(True)], many=False)
    assert document["outputs"] == [{"name": "result", "datatype": "BOOL", "shape": [], "data": [True]}]
    assert "id" not in document


def test_outputs_come_in_the_order_asked_each_in_its_form() -> None:
    answers = [{"a": torch.tensor([1, 2]), "b": torch.tensor([0.5], dtype=torch.bfloat16)}] * 2
    asked = Asked(None, (AskedOutput("b", True), AskedOutput("a", False)))
    document, tail = written(answers, asked)
    assert [output["name"] for output in document["outputs"]] == ["b", "a"]
    assert document["outputs"][0] == {
        "name": "b",
        "datatype": "BF16",
        "shape": [2, 1],
        "parameters": {"binary_data_size": 4},
    }
    assert document["outputs"][1]["data"] == [1, 2, 1, 2]
    assert tail == b"\0\x3f\0\x3f"
    document, tail = written(answers, Asked(is_binary=True))
    assert [output["parameters"]["binary_data_size"] for output in document["outputs"]] == [32, 4]
    assert len(tail) == 36


def test_an_output_that_there_is_not_is_named() -> None:
    with pytest.raises(MalformedBody, match="no output 'x'; the model gives 'result'"):
        written([torch.tensor([1.0])], Asked(None, (AskedOutput("x", False),)))


def test_classes_as_triton_spells_them() -> None:
    answers = [torch.tensor([0.1, 3.0, 2.0, 9.0]), torch.tensor([5.0, 1.0, 2.0, 0.0])]
    document, _ = written(answers, Asked(None, (AskedOutput("result", False, 2),)))
    (output,) = document["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["9.000000:3", "3.000000:1:bee", "5.000000:0:ant", "2.000000:2:cat"]
    document, tail = written(answers[:1], Asked(None, (AskedOutput("result", True, 9),)), many=False)
    assert document["outputs"][0]["shape"] == [4]
    assert tail.startswith(struct.pack("<I", 10) + b"9.000000:3")
    with pytest.raises(ModelRejected, match="no list of classes' scores"):
        written([torch.zeros(2, 2)], Asked(None, (AskedOutput("result", False, 1),)))


def test_texts_are_bytes() -> None:
    document, tail = written(["a", "ö"], Asked(is_binary=True))
    assert (document["outputs"][0]["datatype"], document["outputs"][0]["shape"]) == ("BYTES", [2])
    assert tail == b"\1\0\0\0a\2\0\0\0" + "ö".encode()
    assert written(["a"], many=False)[0]["outputs"][0]["data"] == ["a"]


def test_what_the_protocol_has_no_word_for_is_told() -> None:
    with pytest.raises(ModelRejected, match="complex64"):
        written([torch.zeros(1, dtype=torch.complex64)])
    with pytest.raises(ModelRejected, match="not numbers"):
        written([{"label": "x"}])
    for is_binary in (True, False):
        with pytest.raises(AnswerTooLarge):
            written([torch.zeros(10_000)], Asked(is_binary=is_binary))
