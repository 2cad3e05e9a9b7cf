"""safetensors_bodies: a header that lies, overlaps or leaves holes is refused."""

from __future__ import annotations

import json
import struct

import pytest
import safetensors.numpy

from tests.unit.formats.bodies import CHW, Refused, assert_refused


def safetensors_header(header: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BROKEN: dict[str, Refused] = {
    "safetensors of no rows and too many columns": (
        safetensors_header({"data": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
        "application/x-safetensors",
        400,
        "beyond what any array can have",
    ),
    "safetensors that overlap": (
        safetensors_header(
            {
                "data": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                "x": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
            },
            bytes(24),
        ),
        "application/x-safetensors",
        400,
        "overlap at byte 8",
    ),
    "safetensors with a hole": (
        safetensors_header(
            {
                "data": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "x": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
            },
            bytes(12),
        ),
        "application/x-safetensors",
        400,
        "a hole at byte 8",
    ),
    "safetensors that begin late": (
        safetensors_header({"data": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        "application/x-safetensors",
        400,
        "a hole at byte 4",
    ),
    "safetensors with bytes to spare": (
        safetensors_header({"data": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(7)),
        "application/x-safetensors",
        400,
        "3 bytes behind its last tensor",
    ),
    "safetensors whose other tensor is none": (
        safetensors_header({"data": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "x": 1}),
        "application/x-safetensors",
        400,
        "safetensors",
    ),
    "safetensors junk": (b"\xff" * 64, "application/x-safetensors", 400, "safetensors"),
    "safetensors without data": (
        safetensors.numpy.save({"x": CHW}),
        "application/x-safetensors",
        400,
        'named "data"',
    ),
    "safetensors that declares a giant": (
        safetensors_header({"data": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"\0" * 4),
        "application/x-safetensors",
        400,
        "declares",
    ),
    "safetensors that points outside": (
        safetensors_header({"data": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, b"\0" * 16),
        "application/x-safetensors",
        400,
        "outside",
    ),
    "safetensors whose header is all there is": (
        safetensors_header({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}),
        "application/x-safetensors",
        400,
        "longer than",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_say_what_is_wrong(name: str) -> None:
    assert_refused(BROKEN[name])
