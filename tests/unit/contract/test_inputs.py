"""inputs, lengths and outputs of model-config.yaml: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import InputSpec

INPUTS = {
    "ids": {"dtype": "int64", "shape": ["L"], "pad": 0, "pad_side": "left"},
    "picture": {"dtype": "float32", "shape": [3, 8, 8], "image": True},
    "age": {"dtype": "float32", "shape": []},
}
SECTION = {"inputs": INPUTS, "lengths": {"L": [16, 32]}, "outputs": {"logits": ["L", 9]}}


@pytest.mark.parametrize("as_text", [False, True], ids=["YAML", "environment"])
def test_what_is_declared_is_read_and_written_alike(as_text: bool) -> None:
    given: dict[str, Any] = {key: json.dumps(value) for key, value in SECTION.items()} if as_text else SECTION
    config = WorkerConfig.resolve(given, {})
    assert config.inputs is not None
    assert config.inputs[0] == InputSpec(name="ids", dtype="int64", shape=("L",), pad=0, pad_side="left")
    assert config.input_shape is None
    assert {key: config.as_dict()[key] for key in SECTION} == SECTION
    assert WorkerConfig.resolve(config.as_dict(), {}) == config


def test_the_outputs_of_a_single_tensor_are_a_shape() -> None:
    config = WorkerConfig.resolve({**SECTION, "outputs": ["L", 9]}, {})
    assert config.as_dict()["outputs"] == ["L", 9]
    assert WorkerConfig.resolve(config.as_dict(), {}) == config


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"inputs": {"a": {"dtype": "int"}}}, "input 'a': dtype must be one of float32"),
        ({"inputs": {"a": {"pad": 0}}}, "a pad needs a size that is a letter"),
        ({"inputs": {"a": {"dtype": "int64", "shape": ["L"], "pad": 0.5}}}, "pad must be a int"),
        ({"inputs": {"a": {"dtype": "bool", "shape": ["L"], "pad": 0}}}, "pad must be a bool"),
        ({"inputs": {"a": {"shape": ["L"], "pad": 0}, "b": {"shape": ["L"]}}}, "it needs a pad, too"),
        ({"inputs": {"a": {"shape": ["L"], "side": 0}}}, "takes dtype, shape, pad, pad_side, image"),
        ({"inputs": {"a": {"shape": [0]}}}, "a size is a number of at least 1"),
        ({"inputs": {"a": {"shape": ["L!"]}}}, "a size is a number, a letter or null"),
        ({"inputs": {"a b": {"shape": [1]}}}, "a name must be an identifier"),
        ({"inputs": {"a": {"shape": [3, 8], "image": True}}}, "an image is float32 of shape"),
        ({"inputs": {}}, "at least one input"),
        ({"inputs": [1]}, "must map names to values"),
        ({**SECTION, "lengths": {"L": [32, 16]}}, "ascending"),
        ({**SECTION, "lengths": {"M": [32]}}, "lengths names M, which no input pads; padded are \\['L'\\]"),
        ({**SECTION, "input_shape": [4]}, "exclude each other"),
        ({**SECTION, "max_tokens": 0}, "max_tokens must be a number of at least 1"),
    ],
)
def test_what_is_wrong_is_said(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WorkerConfig.resolve(section, {})
