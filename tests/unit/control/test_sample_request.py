"""Requests made up of what a worker says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from smartbatch.sample_request import SampleRequest, sample_request
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.description import MAX_EXAMPLE_BYTES, example_of
from smartbatch_worker.flow.decode import decode


def described(section: dict[str, Any], example: tuple[bytes, str] | None = None) -> dict[str, Any]:
    config = WorkerConfig.resolve(section, {}).as_dict()
    return {"pid": 1, "config": config, "example": None if example is None else example_of(*example)}


EVERY_KIND = {
    "ids": {"dtype": "int64", "shape": ["L"], "pad": 0},
    "mask": {"dtype": "bool", "shape": ["L"], "pad": False},
    "age": {"dtype": "float64", "shape": []},
    "photo": {"dtype": "float32", "shape": [3, "H", "W"], "image": True},
    "table": {"dtype": "uint8", "shape": [2, 2]},
}


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"input_shape": [4]},
        {"input_shape": [2, None]},
        {"inputs": EVERY_KIND},
        {"inputs": EVERY_KIND, "lengths": {"L": [4, 64]}, "image_crop": 32},
        {"inputs": {"x": {"shape": []}}},
    ],
)
def test_what_is_made_up_is_read(section: dict[str, Any]) -> None:
    sample = sample_request(described(section))
    assert isinstance(sample, SampleRequest)
    assert not sample.is_users
    (item,) = decode(sample.body, sample.content_type, WorkerConfig.resolve(section, {})).items
    if "lengths" in section:
        assert item["ids"].tolist() == [1] * 4
        assert item["photo"].shape == (3, 32, 32)


def test_an_example_beats_what_could_be_made_up() -> None:
    sample = sample_request(described({}, (b"picture", "image/jpeg")))
    assert sample == SampleRequest(b"picture", "image/jpeg", is_users=True)


def test_of_a_large_example_something_is_made_up_where_it_can_be() -> None:
    large = (bytes(MAX_EXAMPLE_BYTES + 1), "application/x-npy")
    sample = sample_request(described({"input_shape": [1]}, large))
    assert isinstance(sample, SampleRequest)
    assert json.loads(sample.body) == {"data": [0.5]}
    why = sample_request(described({"input_shape": None}, large))
    assert why == "the archive's example is too large to ask a worker for (65537 bytes)"


@pytest.mark.parametrize("said", [None, [], "text", {}, {"config": {}}, {"config": None, "state": 1}])
def test_another_handler_says_nothing(said: Any) -> None:
    assert sample_request(said) == "the handler does not say what it takes"


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"input_shape": None}, "its input_shape leaves"),
        ({"inputs": {"x": {"dtype": "int64", "shape": ["L"]}}}, "its inputs leave"),
        ({"inputs": {"x": {"shape": [None]}}}, "its inputs leave"),
    ],
)
def test_sizes_that_would_be_guessed(section: dict[str, Any], what: str) -> None:
    why = sample_request(described(section))
    assert why == f"{what} sizes open, and the archive has no example (`smartbatch archive --example FILE`)"
