"""Requests of the Open Inference Protocol, written by hand: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import BodyTooLarge, MalformedBody, RowError, WrongInputs
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.formats.open_inference import request
from smartbatch_worker.formats.open_inference.asked import Asked, AskedOutput
from smartbatch_worker.formats.open_inference.tensors import DTYPES

JSON = media_types.OPEN_INFERENCE
ANY = WorkerConfig.resolve({"input_shape": None}, {})
FOUR = WorkerConfig.resolve({"input_shape": [4], "max_items": 3, "max_elements": 100}, {})
NAMED = WorkerConfig.resolve(
    {
        "inputs": {
            "ids": {"dtype": "int64", "shape": ["L"], "pad": 0},
            "mask": {"dtype": "bool", "shape": ["L"], "pad": False},
        }
    },
    {},
)
DATA: dict[str, Any] = {"name": "data", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
NUMPY = {"BF16": np.float32} | {
    name: np.dtype(str(dtype).removeprefix("torch.")) for name, dtype in DTYPES.items() if name != "BF16"
}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def binary(*inputs: tuple[str, str, list[int], bytes], blanks: int = 0, **more: Any) -> tuple[bytearray, str]:
    """A body with binary tensors, and its Content-Type."""
    entries = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in inputs
    ]
    text = body(*entries, **more) + b" " * blanks
    return bytearray(text + b"".join(data for *_, data in inputs)), f"{JSON}; json={len(text)}"


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("kind", DTYPES)
def test_every_datatype_in_json_and_as_bytes(kind: str) -> None:
    dtype = DTYPES[kind]
    limits = (
        [0, 1]
        if dtype == torch.bool
        else [0, 1, 100, torch.iinfo(dtype).max]
        if not dtype.is_floating_point
        else [0.5, -2]
    )
    expected = torch.tensor(limits, dtype=dtype)
    written = [bool(n) for n in limits] if dtype == torch.bool else limits
    read = request.read(body({**DATA, "datatype": kind, "shape": [len(limits)], "data": written}), JSON, ANY)
    assert torch.equal(read.inputs["data"], expected)
    for blanks in range(8):  # at whatever address its bytes are
        read = request.read(*binary(("data", kind, [len(limits), 1], bytes_of(expected)), blanks=blanks), ANY)
        assert read.inputs["data"].dtype == dtype
        assert torch.equal(read.inputs["data"], expected[:, None])


def test_bytes_are_not_copied_where_they_can_stay() -> None:
    sent, content_type = binary(("data", "FP32", [2], bytes_of(torch.tensor([1.0, 2.0]))))
    sent, content_type = binary(("data", "FP32", [2], bytes_of(torch.tensor([1.0, 2.0]))), blanks=-len(sent) % 4)
    read = request.read(sent, content_type, ANY).inputs["data"]
    sent[-8:] = bytes(8)
    assert read.tolist() == [0, 0]


def test_flat_and_nested_lists_are_the_same() -> None:
    for data in ([1, 2, 3, 4, 5, 6, 7, 8], [[1, 2, 3, 4], [5, 6, 7, 8]]):
        decoded = decode(body({**DATA, "shape": [2, 4], "data": data}), JSON, FOUR)
        assert [item.tolist() for item in decoded.items] == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert decoded.has_batch_dim
    assert not decode(body(DATA), JSON, FOUR).has_batch_dim


def test_named_inputs_in_any_order_json_beside_bytes() -> None:
    ids = {"name": "ids", "datatype": "INT64", "shape": [2, 2], "data": [1, 2**62 + 1, 3, 4]}
    mask = {"name": "mask", "datatype": "BOOL", "shape": [2, 2], "parameters": {"binary_data_size": 4}}
    text = body(mask, ids)
    decoded = decode(bytearray(text + b"\1\0\1\1"), f"{JSON}; json={len(text)}", NAMED)
    assert [{name: part.tolist() for name, part in item.items()} for item in decoded.items] == [
        {"ids": [1, 2**62 + 1], "mask": [True, False]},
        {"ids": [3, 4], "mask": [True, True]},
    ]


def test_what_is_asked_of_the_answer() -> None:
    outputs = [
        {"name": "b", "parameters": {"classification": 3}},
        {"name": "a", "parameters": {"binary_data": False}},
    ]
    sent = body(DATA, id="x-1", outputs=outputs, parameters={"binary_data_output": True, "sequence_id": 7})
    assert request.read(sent, JSON, ANY).asked == Asked(
        "x-1", (AskedOutput("b", True, 3), AskedOutput("a", False)), True
    )
    assert request.read(body(DATA), JSON, ANY).asked == Asked()


BROKEN = {
    "the JSON must be an object": b"[]",
    "not valid JSON": b"{",
    '"inputs" must be a list of 1 to 256': body(),
    '"inputs"[0] must be an object': b'{"inputs": [1]}',
    "must have a name": body({**DATA, "name": ""}),
    "name must be a text": body({"datatype": "FP32"}),
    "two inputs of one name": body(DATA, DATA),
    "has two keys named 'name'": b'{"inputs": [{"name": "a", "name": "b"}]}',
    "datatype 'FP128'; accepted are BOOL": body({**DATA, "datatype": "FP128"}),
    "sizes of its shape must be whole numbers": body({**DATA, "shape": [-4]}),
    "a list of at most": body({**DATA, "shape": [1] * 40}),
    "beyond what any array": body({**DATA, "shape": [0, 2**62], "data": []}),
    'either "data", or a binary_data_size': body({**DATA, "parameters": {"binary_data_size": 16}}),
    "shared memory, which this server does not read": body({**DATA, "parameters": {"shared_memory_region": "r"}}),
    "the parameters of input 'data' must be an object": body({**DATA, "parameters": []}),
    "data must be a list": body({**DATA, "data": "1234"}),
    "4 numbers; got 3": body({**DATA, "data": [1, 2, 3]}),
    "its lists are [2, 2]": body({**DATA, "data": [[1, 2], [3, 4]]}),
    "mixes numbers and lists": body({**DATA, "data": [1, [2], 3, 4]}),
    "numbers only: it is FP32": body({**DATA, "data": [1, 2, 3, "4"]}),
    "whole numbers only: it is INT8": body({**DATA, "datatype": "INT8", "data": [1, 2, 3, 4.5]}),
    "UINT8; got numbers beyond 0 to 255": body({**DATA, "datatype": "UINT8", "data": [1, 2, 3, 256]}),
    "true and false": body({**DATA, "datatype": "BOOL", "data": [1, 2, 3, 4]}),
    "id must be a text": body(DATA, id=7),
    "an id may have": body(DATA, id="x" * 2000),
    '"outputs" must be a list': body(DATA, outputs={"name": "x"}),
    "one output is asked for twice": body(DATA, outputs=[{"name": "x"}, {"name": "x"}]),
    "binary_data must be true or false": body(DATA, outputs=[{"name": "x", "parameters": {"binary_data": 1}}]),
    "classification must be from 0": body(DATA, outputs=[{"name": "x", "parameters": {"classification": -1}}]),
    "wanted in shared memory": body(DATA, outputs=[{"name": "x", "parameters": {"shared_memory_region": "r"}}]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_breaks_the_rules_is_told(message: str) -> None:
    with pytest.raises(MalformedBody) as refused:
        request.read(BROKEN[message], JSON, ANY)
    assert message in refused.value.message


@pytest.mark.parametrize("length", ["1", "1000000", "99999999999999999999", "-1", "x", ""])
def test_a_length_that_lies_is_told(length: str) -> None:
    with pytest.raises(MalformedBody, match="Inference-Header-Content-Length"):
        request.read(body(DATA), f"{JSON}; json={length}", ANY)


@pytest.mark.parametrize("delta", [-4, 4])
def test_bytes_that_do_not_add_up_are_told(delta: int) -> None:
    text, kind = binary(("data", "FP32", [4], bytes(16)))
    sent = text[:delta] if delta < 0 else text + bytes(delta)
    with pytest.raises(MalformedBody, match="add up to what follows the JSON; it is 4 bytes too"):
        request.read(sent, kind, ANY)
    with pytest.raises(MalformedBody, match="= 16 bytes of data; the body has"):
        request.read(*binary(("data", "FP32", [4], bytes(16 + delta))), ANY)
    with pytest.raises(MalformedBody, match="bytes are 0 or 1"):
        request.read(*binary(("data", "BOOL", [4], b"\0\1\2\0")), ANY)


def test_sizes_are_bounded_before_anything_is_built() -> None:
    with pytest.raises(BodyTooLarge, match="at most 100 are accepted"):
        request.read(body({**DATA, "shape": [2**40, 2**40]}), JSON, FOUR)
    with pytest.raises(BodyTooLarge, match="4 items; at most 3"):
        decode(body({**DATA, "shape": [4, 4], "data": list(range(16))}), JSON, FOUR)


def test_inputs_are_the_models() -> None:
    with pytest.raises(WrongInputs, match="one input, named 'data'; got 'x'"):
        request.read(body({**DATA, "name": "x"}), JSON, ANY)
    with pytest.raises(WrongInputs, match="'ids' is missing"):
        request.read(body(DATA), JSON, NAMED)


def test_where_it_is_not_looked_for_it_says_where() -> None:
    for config in (FOUR, NAMED):
        with pytest.raises(MalformedBody, match="POST it to /v2/models/<model>/infer"):
            decode(body(DATA), "application/json", config)


# Texts

TEXTS = WorkerConfig.resolve(
    {"tokenizer": "tokenizer.json", "max_items": 3, "inputs": {"ids": {"dtype": "int64", "shape": ["L"], "pad": 0}}}, {}
)


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_texts(shape: list[int]) -> None:
    given = {
        "name": "text",
        "datatype": "BYTES",
        "shape": shape,
        "data": ["a", "ö"] if len(shape) == 1 else [["a"], ["ö"]],
    }
    pair = {**given, "name": "text_pair"}
    assert request.read(body(given, pair), JSON, TEXTS).texts == {"text": ["a", "ö"], "text_pair": ["a", "ö"]}
    sent = binary(("text", "BYTES", shape, packed(b"a", "ö".encode())))
    assert request.read(*sent, TEXTS).texts == {"text": ["a", "ö"]}


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ([2], packed(b"a"), "must be 2 texts, each behind its length"),
        ([1], packed(b"a", b"b"), "must be 1 texts"),
        ([1], struct.pack("<I", 2**32 - 1) + b"abc", "must be 1 texts"),
        ([1], b"\1\0", "must be 1 texts"),
        ([1], packed(b"a\xff"), "text 0 breaks its rules at byte 1"),
        ([4], packed(b"", b"", b"", b""), "4 items; at most 3"),
        ([2**62], b"", "at most 3"),
        ([0], b"", r"shape \[N\]"),
        ([2, 1, 1, 2], packed(*[b""] * 4), "at most 3"),
        ([1, 2, 1, 1], packed(b"a"), "must be 2 texts"),
    ],
)
def test_texts_that_lie_are_told(shape: list[int], data: bytes, message: str) -> None:
    with pytest.raises(RowError, match=message):
        request.read(*binary(("text", "BYTES", shape, data)), TEXTS)


def test_texts_are_for_models_of_text() -> None:
    given = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    with pytest.raises(RowError, match="has no tokenizer; it takes 'data'"):
        request.read(body(given), JSON, FOUR)
    with pytest.raises(WrongInputs, match="BYTES inputs named 'text'"):
        request.read(body({**given, "name": "x"}), JSON, TEXTS)
    with pytest.raises(WrongInputs, match="as many texts"):
        request.read(body(given, {**given, "name": "text_pair", "shape": [2], "data": ["a", "b"]}), JSON, TEXTS)
    with pytest.raises(MalformedBody, match="a list of 1 texts"):
        request.read(body({**given, "data": [1]}), JSON, TEXTS)


names = st.sampled_from(["data", "ids", "mask", "text", "", "x" * 50])
sizes = st.integers(-2, 5) | st.sampled_from([2**31, 2**62, 2**63, 1.5, True, None, "4"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)
tensors_sent = st.fixed_dictionaries(
    {
        "name": names,
        "datatype": st.sampled_from([*DTYPES, "BYTES", "?"]),
        "shape": st.lists(sizes, max_size=3) | values,
    },
    optional={"data": values, "parameters": st.dictionaries(st.just("binary_data_size"), sizes) | values},
)


@given(st.lists(tensors_sent, max_size=3), st.binary(max_size=40), st.integers(-1, 400), values, values)
@settings(max_examples=400)
def test_whatever_is_sent_is_read_or_refused(
    inputs: list[dict[str, Any]], tail: bytes, length: int, identity: Any, outputs: Any
) -> None:
    text = json.dumps({"inputs": inputs, "id": identity, "outputs": outputs}).encode()
    for content_type in (JSON, f"{JSON}; json={len(text)}", f"{JSON}; json={length}"):
        for config in (ANY, FOUR, NAMED):
            try:
                decode(bytearray(text + tail), content_type, config)
            except RowError as error:
                if not 400 <= error.status < 500:
                    raise
