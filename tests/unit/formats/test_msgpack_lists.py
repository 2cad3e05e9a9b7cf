"""msgpack_lists: long lists are read as short ones are; what would cost memory is refused first."""

from __future__ import annotations

import struct

import msgpack
import msgspec
import numpy as np
import pytest
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow.decode import decode

from tests.unit.formats.bodies import VECTOR_MODEL, Refused, assert_refused

BROKEN: dict[str, Refused] = {
    "msgpack bytes of no rows and too many columns": (
        msgspec.msgpack.encode({"data": b"", "shape": [0, 2**61]}),
        "application/msgpack",
        400,
        "beyond what any array can have",
    ),
    "a long msgpack list with a null": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2**17 + 1) + b"\x01" * 2**17 + b"\xc0",
        "application/msgpack",
        400,
        "no number stands",
    ),
    "a long msgpack list with a text": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2**17 + 1) + b"\xa1x" + b"\x01" * 2**17,
        "application/msgpack",
        400,
        "no number stands",
    ),
    "a long msgpack list with a list": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2**17 + 1) + b"\x01" * 2**17 + b"\x91\x01",
        "application/msgpack",
        400,
        "no number stands",
    ),
    "two million msgpack lists": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2_000_000) + b"\x91\x01" * 2_000_000,
        "application/msgpack",
        413,
        "lists",
    ),
    "msgpack of 17 million empty lists": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 17_000_000) + b"\x90" * 17_000_000,
        "application/msgpack",
        413,
        "max_elements",
    ),
    "msgpack junk": (b"\xc1", "application/msgpack", 400, "msgpack"),
    "msgpack that declares a giant": (b"\x81\xa4data\xdd\xff\xff\xff\xff", "application/msgpack", 400, "msgpack"),
    "deep msgpack": (b"\x81\xa4data" + b"\x91" * 100_000, "application/msgpack", 400, "."),
    "msgpack words": (msgspec.msgpack.encode({"data": ["1", "2"]}), "application/msgpack", 400, "numbers"),
    "msgpack nulls": (msgspec.msgpack.encode({"data": [None]}), "application/msgpack", 400, "."),
    "ragged msgpack": (msgspec.msgpack.encode({"data": [[1.0], [1.0, 2.0]]}), "application/msgpack", 400, "equally"),
    "msgpack bytes of another length": (
        msgspec.msgpack.encode({"data": b"1234", "shape": [3, 5, 6]}),
        "application/msgpack",
        400,
        "declares",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_say_what_is_wrong(name: str) -> None:
    assert_refused(BROKEN[name])


LONG = 2**16 * 2 + 3
LONG_LISTS = {
    "small whole numbers": [-32, -1, 0, 1, 127] * (LONG // 5),
    "bytes": [*range(256)] * (LONG // 256 + 1),
    "whole numbers of every size": [sign * 2**power for power in range(63) for sign in (1, -1)] * (LONG // 126 + 1),
    "unsigned": [200] * LONG,
    "unsigned of 64 bits": [2**64 - 1] * LONG,
    "signed": [-30_000] * LONG,
    "doubles": [number / 7 for number in range(LONG)],
    "doubles and whole numbers": [0.5, 3] * LONG,
    "large": [1e38, 2**64 - 1] * LONG,
}


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", LONG_LISTS)
def test_long_msgpack_lists_are_read_as_short_ones_are(name: str, single: bool) -> None:
    numbers = LONG_LISTS[name]
    config = WorkerConfig.resolve({"input_shape": None, "nonfinite": "allow"}, {})
    body = msgpack.packb({"data": numbers}, use_single_float=single)
    with np.errstate(over="ignore"):
        expected = np.asarray(numbers, dtype=np.float64).astype(np.float32)
    (item,) = decode(bytearray(body), "application/msgpack", config).items
    np.testing.assert_array_equal(item.numpy(), expected)


def test_of_two_msgpack_keys_the_last_counts() -> None:
    body = b"\x82\xa4data\x94\1\1\1\1\xa4data\x94\1\2\3\4"
    assert decode(body, "application/msgpack", VECTOR_MODEL).items[0].tolist() == [1, 2, 3, 4]
