""".npz bodies: arrays as they are, and what a zip may be instead."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.formats import npz

CONFIG = WorkerConfig.resolve(
    {"inputs": {"ids": {"dtype": "int64", "shape": ["L"]}, "x": {"dtype": "float32", "shape": []}}, "max_elements": 99},
    {},
)


def saved(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_read_as_they_are(compressed: bool) -> None:
    body = saved(
        compressed,
        ids=np.array([2**53 + 1, -1]),
        x=np.float64(0.5),
    )
    read = npz.read_named(body, CONFIG)
    assert read["ids"].tolist() == [2**53 + 1, -1]
    assert read["x"].dtype == torch.float64
    (item,) = decode(body, "", CONFIG).items
    assert item["x"].dtype == torch.float32


@pytest.mark.parametrize(
    ("arrays", "status", "said"),
    [
        ({"ids": np.array([1])}, 422, "input 'x' is missing"),
        ({"ids": np.array([1]), "x": np.array([{}], dtype=object)}, 400, "dtype object"),
        ({"ids": np.zeros(100, dtype=np.int64), "x": np.float32(1)}, 413, "the tensor has 100 numbers"),
        ({"ids": np.array([0.5]), "x": np.float32(1)}, 422, "input 'ids' is int64; got float64"),
        ({"ids": np.array([2**63], dtype=np.uint64), "x": np.float32(1)}, 422, "numbers beyond"),
        ({"ids": np.array([1]), "x": np.float32(np.nan)}, 422, "NaN"),
    ],
)
def test_what_is_wrong_is_said(arrays: dict[str, Any], status: int, said: str) -> None:
    with pytest.raises(RowError, match=said) as caught:
        decode(saved(**arrays), "", CONFIG)
    assert caught.value.status == status


def test_a_damaged_zip_is_malformed() -> None:
    body = saved(True, ids=np.array([1]), x=np.float32(1))
    for broken in (body[:-30], body[:60] + bytes(20) + body[80:], b"PK\x03\x04"):
        with pytest.raises(RowError) as caught:
            decode(broken, "", CONFIG)
        assert caught.value.status == 400


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ids.npy", bytes(64 << 20))
        archive.writestr("x.npy", b"")
    tracemalloc.start()
    with pytest.raises(RowError, match="max_elements") as caught:
        decode(stream.getvalue(), "", CONFIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < 1 << 20


def test_a_model_of_one_tensor_says_what_to_send() -> None:
    with pytest.raises(RowError, match=r"send \.npy") as caught:
        decode(saved(x=np.zeros(4)), "", WorkerConfig())
    assert caught.value.status == 415
