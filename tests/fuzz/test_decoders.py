"""Every decoder against seeds, the kept corpus, mutations of both, and bodies hypothesis makes up.

`make fuzz` runs a million guided executions; this is the short form.
"""

from __future__ import annotations

import io
import json
import random
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode

from fuzz.__main__ import kept
from fuzz.seeds import REPAIRS, seeds
from fuzz.targets import CONFIGS, TARGETS, check_answer

MODEL = CONFIGS[2]  # takes any shape
MUTATIONS_PER_BODY = 40

thorough = settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-(10**320), 10**320),
    st.booleans(),
)
anything = st.recursive(
    st.one_of(st.none(), numbers, st.floats(), st.text(max_size=8), st.binary(max_size=8)),
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(st.sampled_from(["data", "x", "shape", ""]), children)
    ),
    max_leaves=24,
)
good_arrays = arrays.arrays(
    dtype=st.sampled_from([np.dtype(kind) for kind in ("<f4", ">f4", "<f8", "<f2", "|u1", "<i2", ">i8", "|i1")]),
    shape=arrays.array_shapes(min_dims=1, max_dims=5, max_side=5),
    elements={"allow_nan": False, "allow_infinity": False},
)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_mutations_keep_the_promises(name: str) -> None:
    target = TARGETS[name]
    dice = random.Random(7)
    accepted = 0
    for body in [*seeds()[name], *kept(name)]:
        accepted += target.run(body)
        for _ in range(MUTATIONS_PER_BODY):
            mutated = mutate(body, dice)
            target.run(REPAIRS[name](mutated) if name in REPAIRS and dice.random() < 0.5 else mutated)
    assert accepted >= 2  # seeds that nothing accepts would test the refusals alone


@given(anything)
@thorough
def test_any_json_document(document: Any) -> None:
    TARGETS["json"].run(json.dumps({"data": document}, default=str).encode())


@given(anything)
@thorough
def test_any_msgpack_document(document: Any) -> None:
    try:
        body = msgpack.packb({"data": document, "shape": [1], "dtype": "uint8"}, default=str)
    except OverflowError:  # it has no whole numbers beyond 64 bits
        return
    TARGETS["msgpack"].run(body)


@given(good_arrays)
@thorough
def test_every_array_survives_npy_and_safetensors(array: np.ndarray[Any, Any]) -> None:
    stream = io.BytesIO()
    np.save(stream, array)
    assert_decoded(stream.getvalue(), "", array)
    if array.dtype.byteorder != ">":
        body = safetensors.numpy.save({"data": np.ascontiguousarray(array)})
        assert_decoded(body, "application/x-safetensors", array)


@given(good_arrays)
@thorough
def test_every_array_survives_json_and_msgpack(array: np.ndarray[Any, Any]) -> None:
    lists = array.tolist()
    with np.errstate(over="ignore"):
        wide = array.astype(np.float32)
    assert_decoded(json.dumps({"data": lists}).encode(), "", wide)
    assert_decoded(msgpack.packb({"data": lists}), "application/msgpack", wide)


@given(st.text(max_size=60), st.binary(max_size=40))
@thorough
def test_any_npy_header(header: str, data: bytes) -> None:
    text = header.encode()
    TARGETS["npy"].run(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)


@given(st.dictionaries(st.text(max_size=8) | st.just("data"), anything, max_size=4), st.binary(max_size=64))
@thorough
def test_any_safetensors_header(header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header, default=str).encode()
    TARGETS["safetensors"].run(struct.pack("<Q", len(text)) + text + data)


@given(st.lists(st.text(max_size=20), max_size=4))
@thorough
def test_any_header_values(lines: list[str]) -> None:
    TARGETS["headers"].run("\n".join(lines).encode("utf-8", "replace"))


@given(st.binary(max_size=200), st.sampled_from(["", "application/json", "application/msgpack", "image/png", "é\n"]))
@thorough
def test_any_bytes_of_any_type(body: bytes, content_type: str) -> None:
    for config in CONFIGS:
        try:
            decode(body, content_type, config)
        except RowError as error:
            check_answer(error)


def assert_decoded(body: bytes, content_type: str, array: np.ndarray[Any, Any]) -> None:
    with np.errstate(over="ignore"):
        expected = array if array.dtype == np.uint8 else array.astype(np.float32)
    if not np.isfinite(expected).all():
        with pytest.raises(RowError, match="finite"):
            decode(bytearray(body), content_type, MODEL)
        return
    (item,) = decode(bytearray(body), content_type, MODEL).items
    np.testing.assert_array_equal(item.numpy(), expected)


def mutate(body: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, cut, repeated or moved."""
    mutated = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(mutated) + 1)
        length = dice.randint(1, 16)
        kind = dice.randrange(4)
        if kind == 0:
            mutated[at : at + 1] = bytes([dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])])
        elif kind == 1:
            del mutated[at : at + length]
        elif kind == 2:
            mutated[at:at] = mutated[at : at + length] * dice.randint(1, 50)
        else:
            piece = bytes(mutated[at : at + length])
            del mutated[at : at + length]
            where = dice.randrange(len(mutated) + 1)
            mutated[where:where] = piece
    return bytes(mutated)
