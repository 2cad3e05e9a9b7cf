"""Answers as .npy, .npz and safetensors: names, types, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from smartbatch_worker.errors import AnswerTooLarge, ModelRejected
from smartbatch_worker.flow.answers.tensor_files import encode_npy, encode_npz, encode_safetensors, name_tensors

ENOUGH = 10_000
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex64,
]


def read_npz(body: bytes) -> dict[str, torch.Tensor]:
    with np.load(io.BytesIO(body), allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


FILES = pytest.mark.parametrize(("encode", "read"), [(encode_npz, read_npz), (encode_safetensors, load)])
Encode = Callable[[list[Any], bool, int], bytes]
Read = Callable[[bytes], dict[str, torch.Tensor]]


def names_of(answers: list[Any], has_batch_dim: bool = False) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in name_tensors(answers, has_batch_dim).items()}


def test_names_are_those_of_open_inference() -> None:
    one, two = torch.zeros(2), torch.zeros(3)
    assert names_of([one]) == {"result": [2]}
    assert names_of([[one, two]]) == {"result_0": [2], "result_1": [3]}
    assert names_of([{"a": one, 7: two}]) == {"a": [2], "7": [3]}
    assert names_of([{"a": [one, {"b": two}]}]) == {"a.0": [2], "a.1.b": [3]}
    assert names_of([[one, {"b": two}]]) == {"result_0": [2], "result_1.b": [3]}
    assert names_of([[1, 2.5]]) == {"result": [2]}
    assert names_of([{"n": 3, "of": np.zeros((2, 2)), "no": None}]) == {"n": [], "of": [2, 2]}


def test_items_are_stacked_where_they_have_one_shape() -> None:
    few, many = (
        {"boxes": torch.zeros(1, 4), "size": torch.zeros(2)},
        {"boxes": torch.zeros(3, 4), "size": torch.zeros(2)},
    )
    assert names_of([few, many], True) == {"boxes.0": [1, 4], "boxes.1": [3, 4], "size": [2, 2]}
    assert names_of([few, few], True) == {"boxes": [2, 1, 4], "size": [2, 2]}
    assert names_of([few], True) == {"boxes": [1, 1, 4], "size": [1, 2]}
    assert names_of([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], True) == {"a.0": [1], "b.1": [1]}
    assert names_of([torch.zeros(1), torch.zeros(2)], True) == {"result.0": [1], "result.1": [2]}


@FILES
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
def test_types_stay_as_they_are(encode: Encode, read: Read, dtype: torch.dtype) -> None:
    sent = {
        "a": torch.tensor([[0.0, 1.0, 2.0]]).to(dtype),
        "b": torch.tensor(3).to(dtype),
        "c": torch.zeros(0, 4, dtype=dtype),
    }
    found = read(encode([sent], False, ENOUGH))
    kept = torch.float32 if dtype == torch.bfloat16 and encode is encode_npz else dtype
    assert set(found) == set(sent)
    for name, tensor in sent.items():
        assert (found[name].dtype, found[name].shape) == (kept, tensor.shape)
        assert torch.equal(found[name], tensor.to(kept))


@FILES
def test_views_of_one_tensor_and_names_of_any_kind(encode: Encode, read: Read) -> None:
    first, second, third = torch.arange(27.0).view(3, 3, 3).unbind(0)
    found = read(
        encode([{"file": first.T, "../up": second[0], "ä b": second[1], "allow_pickle": third[:, 1]}], False, ENOUGH)
    )
    assert torch.equal(found["file"], first.T)
    assert set(found) == {"file", "../up", "allow_pickle", "ä b"}


def test_numbers_of_python_keep_their_value() -> None:
    found = read_npz(encode_npz([{"id": 2**53 + 1, "score": 0.1, "is": True}], False, ENOUGH))
    assert {name: value.item() for name, value in found.items()} == {"id": 2**53 + 1, "score": 0.1, "is": True}


@FILES
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"text": "cat"}, "'text' of this answer is a str, not numbers; ask for application/json"),
        ({"a": [torch.ones(1), "b"]}, "'a.1' of this answer is a str"),
        ({"a": 1 << 70}, "'a' of this answer is a int, not numbers"),
        ({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, "two tensors of this answer would be named 'a.b'"),
        ({}, "holds no tensor"),
    ],
)
def test_what_is_no_tensor_is_refused(encode: Encode, read: Read, answer: Any, said: str) -> None:
    with pytest.raises(ModelRejected, match=said):
        encode([answer], False, ENOUGH)


def test_a_type_that_safetensors_have_not() -> None:
    with pytest.raises(ModelRejected, match=r"hold no torch\.complex128; ask for application/x-npz"):
        encode_safetensors([torch.zeros(1, dtype=torch.complex128)], False, ENOUGH)


@pytest.mark.parametrize("encode", [encode_npy, encode_npz, encode_safetensors])
def test_an_answer_over_the_limit_is_refused_and_not_first_written(encode: Encode) -> None:
    body = encode([torch.ones(100)], False, ENOUGH)
    assert encode([torch.ones(100)], False, len(body)) == body
    with pytest.raises(AnswerTooLarge, match="at least 400 bytes; at most 399 are sent"):
        encode([torch.ones(100)], False, 399)
    with pytest.raises(AnswerTooLarge, match=f"at least {len(body)} bytes"):  # its header counts
        encode([torch.ones(100)], False, 400)


def test_npy_is_one_array() -> None:
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    assert np.load(io.BytesIO(encode_npy(rows, True, ENOUGH))).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.load(io.BytesIO(encode_npy(rows[:1], False, ENOUGH))).tolist() == [1.0, 2.0]
    with pytest.raises(ModelRejected, match=r"several tensors.*ask for application/x-npz or application/x-safetensors"):
        encode_npy([{"a": torch.ones(1)}], False, ENOUGH)
    with pytest.raises(ModelRejected, match=r"several shapes \(\[1\], \[2\]\)"):
        encode_npy([torch.ones(2), torch.ones(1)], True, ENOUGH)


def test_a_mask_takes_a_byte_a_pixel() -> None:
    mask = torch.zeros(224, 224, dtype=torch.uint8)
    for encode in (encode_npy, encode_npz, encode_safetensors):
        assert len(encode([mask], False, 10**6)) < 50_176 + 500
