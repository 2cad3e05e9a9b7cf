"""calibrate and measure: timed once and kept."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward import calibrate
from smartbatch_worker.forward.calibrate import Calibration, Calibrations, Question, known_shape, random_sample
from smartbatch_worker.forward.measure import time_forward
from smartbatch_worker.forward.measurements import Measurements

CPU = torch.device("cpu")


def test_calibration_is_measured_once_and_remembered(tmp_path: Path) -> None:
    sizes: list[int] = []

    def forward(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(batch.shape[0])
        return batch

    question = Question(Measurements(tmp_path), "fp32", random_sample((3, 8, 8), 8, CPU), 8)
    assert question.kept() is None
    first = question.measured(forward, CPU)
    count = len(sizes)
    assert max(sizes) == 8
    second = question.measured(forward, CPU)
    assert len(sizes) == count
    assert first == second == question.kept()
    assert len(list(tmp_path.glob("*.json"))) == 1


def of_size(tmp_path: Path, max_size: int) -> Question:
    return Question(Measurements(tmp_path), "fp32", random_sample((4,), 64, CPU), max_size)


@pytest.mark.parametrize(
    ("measured", "asked", "told"),
    [
        (8, 2, {1, 2}),  # what was measured up to more
        (24, 16, {1, 2, 4, 8, 16}),  # powers of two are what is measured
        (16, 31, {1, 2, 4, 8, 16}),
        (100, 64, {1, 2, 4, 8, 16, 32, 64}),
        (2, 8, None),  # nobody knows what more would have gained
        (16, 32, None),
    ],
)
def test_what_was_measured_for_other_batches_tells_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: int, asked: int, told: set[int] | None
) -> None:
    monkeypatch.setattr(calibrate, "time_forward", lambda forward, batch, device: 0.001)  # the more, the better
    of_size(tmp_path, measured).measured(torch.zeros_like, CPU)
    kept = of_size(tmp_path, asked).kept()
    assert (None if kept is None else set(kept.seconds_per_item)) == told
    if told is None:
        again = of_size(tmp_path, asked).measured(torch.zeros_like, CPU)
        assert again is not None
        assert max(again.seconds_per_item) == asked


def test_sizes_that_lost_are_not_measured_for_larger_batches_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "time_forward", lambda forward, batch, device: 0.001 * len(batch) ** 2)
    first = of_size(tmp_path, 32).measured(torch.zeros_like, CPU)
    assert first is not None
    assert set(first.seconds_per_item) == {1, 2, 4, 8}, "the first round goes so far, whatever it finds"
    assert all(of_size(tmp_path, size).kept() == first for size in (64, 16, 8))
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_one_disturbed_time_of_a_size_that_cannot_win_is_not_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches may not fill up: what is predicted of those is told by the smaller sizes."""
    timed: list[int] = []

    def seconds(_forward: object, batch: torch.Tensor, _device: torch.device) -> float:
        size = len(batch)
        timed.append(size)
        disturbed = 2.0 if timed.count(size) == 1 and size in (2, 4) else 1.0
        return disturbed * (0.010 + 0.005 * size)

    monkeypatch.setattr(calibrate, "time_forward", seconds)
    found = of_size(tmp_path, 32).measured(torch.zeros_like, CPU)
    assert found is not None
    assert found.seconds() == pytest.approx({size: 0.010 + 0.005 * size for size in (1, 2, 4, 8, 16, 32)})
    assert timed.count(1) < timed.count(32)


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


def test_a_forwards_seconds_are_of_all_its_items() -> None:
    assert Calibration((4,), {1: 3.0, 4: 1.5, 8: 1.25}).seconds() == {1: 3.0, 4: 6.0, 8: 10.0}


def test_the_calibration_of_most_nearly_as_many_numbers_tells() -> None:
    short = Calibration((("ids", (32,)),), {1: 2.0, 8: 1.0})
    long = Calibration((("ids", (512,)),), {1: 2.0, 2: 1.9})
    both = Calibrations([short, long])
    assert both.of((("ids", (64,)),)) is short
    assert both.of((("ids", (256,)),)) is long
    assert Calibrations([]).of((4,)) is None
