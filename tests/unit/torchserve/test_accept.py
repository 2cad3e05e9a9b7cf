"""Accept: the form that a client wants most, of those that there are."""

from __future__ import annotations

import pytest
from smartbatch_worker.errors import MalformedBody, NotAcceptable
from smartbatch_worker.torchserve.accept import choose

JSON, NPY, NPZ, SAFETENSORS = (f"application/{name}" for name in ("json", "x-npy", "x-npz", "x-safetensors"))


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        (" , ", JSON),
        ("*/*", JSON),
        ("*", JSON),
        ("application/*", JSON),
        (NPY, NPY),
        (f"{NPY}, */*", NPY),
        (f"*/*, {NPY}", NPY),
        (f"{JSON}, {NPY}", JSON),
        (f"{NPY}, {JSON}", NPY),
        (f"{JSON};q=0.5, {SAFETENSORS}", SAFETENSORS),
        (f"{JSON}; q=0.5 , {SAFETENSORS} ;Q=0.4", JSON),
        (f"{NPZ};q=.5, */*;q=.1", NPZ),
        (f"{JSON};q=0, */*", NPY),
        (f"{NPZ.upper()};level=1", NPZ),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", JSON),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON),
        (f"text/csv, {NPZ};q=0.001", NPZ),
        (f"application/*;q=0.2, {SAFETENSORS};q=0.1", JSON),
    ],
)
def test_the_best_of_what_is_taken(accept: str, chosen: str) -> None:
    assert choose(accept) == chosen


@pytest.mark.parametrize("accept", ["text/html", f"{JSON};q=0", "*/*;q=0", "image/*", "application"])
def test_a_client_that_takes_none_of_it_is_told_what_there_is(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        choose(accept)
    assert caught.value.status == 406
    assert f"{JSON}, {NPY}, {NPZ}, {SAFETENSORS}; got {accept!r}" in caught.value.message


def test_a_long_header_is_not_quoted_whole() -> None:
    with pytest.raises(NotAcceptable) as caught:
        choose("text/html," * 1000)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("quality", ["", "x", "nan", "1e0", "-1", "1.1", "2", ".", "٣"])
def test_a_quality_is_a_number_from_0_to_1(quality: str) -> None:
    with pytest.raises(MalformedBody, match="q in Accept must be a number from 0 to 1"):
        choose(f"{JSON};q={quality}")


def test_of_some_forms_alone() -> None:
    assert choose("*/*", (JSON,)) == JSON
    assert choose(f"{NPZ}, {JSON};q=0.1", (JSON,)) == JSON
    with pytest.raises(NotAcceptable):
        choose(NPZ, (JSON,))
