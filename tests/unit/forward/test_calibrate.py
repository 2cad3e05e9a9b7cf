"""calibrate and measure: timed once, kept beside the weights, made again where what is kept is no measurement."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward.calibrate import Calibration, calibrate, known_shape
from smartbatch_worker.forward.measure import CACHE_FILE, time_forward

CPU = torch.device("cpu")


def test_calibration_is_measured_once_and_remembered(tmp_path: Path) -> None:
    sizes: list[int] = []

    def forward(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(batch.shape[0])
        return batch

    first = calibrate(tmp_path, "fp32", forward, (3, 8, 8), 8, CPU)
    count = len(sizes)
    assert max(sizes) == 8
    second = calibrate(tmp_path, "fp32", forward, (3, 8, 8), 8, CPU)
    assert len(sizes) == count
    assert first == second
    assert len(json.loads((tmp_path / CACHE_FILE).read_text())) == 1


NO_MEASUREMENTS: tuple[Any, ...] = (
    None,
    [],
    {},
    3,
    "x",
    {"8": "fast"},
    {"8": None},
    {"eight": 1.0},
    {"8": math.nan},
    {"0": 1.0},
)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"7", b"{", b"\xff\xfe", *(json.dumps({"KEY": entry}).encode() for entry in NO_MEASUREMENTS)],
)
def test_a_file_of_measurements_that_holds_something_else_is_measured_again(tmp_path: Path, content: bytes) -> None:
    first = calibrate(tmp_path, "fp32", lambda batch: batch, (3, 8, 8), 8, CPU)
    (key,) = json.loads((tmp_path / CACHE_FILE).read_text())
    (tmp_path / CACHE_FILE).write_bytes(content.replace(b"KEY", key.encode()))
    again = calibrate(tmp_path, "fp32", lambda batch: batch, (3, 8, 8), 8, CPU)
    assert again.seconds_per_item.keys() == first.seconds_per_item.keys()
    kept = json.loads((tmp_path / CACHE_FILE).read_text())[key]
    assert {int(size): seconds for size, seconds in kept.items()} == again.seconds_per_item


def test_where_measurements_cannot_be_kept_they_are_made_all_the_same(tmp_path: Path) -> None:
    (tmp_path / CACHE_FILE).mkdir()
    assert calibrate(tmp_path, "fp32", lambda batch: batch, (3, 8, 8), 8, CPU).best
    (tmp_path / CACHE_FILE).rmdir()
    (tmp_path / CACHE_FILE).symlink_to("/dev/full")
    assert calibrate(tmp_path, "fp32", lambda batch: batch, (3, 8, 8), 8, CPU).best


def test_a_forward_that_waits_is_timed_by_the_wall_clock() -> None:
    assert time_forward(lambda _: time.sleep(0.02), torch.zeros(1), CPU) >= 0.02


def test_the_fastest_size_wins() -> None:
    calibration = Calibration((3, 10, 10), {1: 2.0, 2: 1.5, 4: 1.0, 8: 1.01, 16: 1.3})
    assert calibration.best == 4
    assert calibration.size_for((3, 20, 20)) == 1
    assert calibration.size_for((3, 5, 5)) == 16
    assert calibration.size_for((3, 200, 200)) == 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, None, None), (3, 224, 224)), ((4,), (4,)), (None, None), ((None,), None), ((3, 5, 6), (3, 5, 6))],
)
def test_known_shape(shape: tuple[int | None, ...] | None, expected: tuple[int, ...] | None) -> None:
    assert known_shape(WorkerConfig(input_shape=shape)) == expected
