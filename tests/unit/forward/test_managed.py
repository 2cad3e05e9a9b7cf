"""ManagedModel: it answers before it knows what is fastest, and goes over to that between two batches."""

from __future__ import annotations

import logging
import os
import pickle
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.environment import FORKED_PYTHON
from smartbatch_worker.forward import calibrate, later, managed
from smartbatch_worker.forward.managed import ManagedModel
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.process import heap

CPU = torch.device("cpu")
NAME, SHAPE = "mobilenet_v3_small", (3, 64, 64)

SLOW = """
import time
import torch

class Slow(torch.nn.Module):
    def forward(self, x):
        time.sleep({sleeps})
        return 2 * x + 1
"""


SLEEPS = "0.02 if len(x) == 4 else 0.05"
"""Seconds of a forward: so far apart that no busy machine makes four at a time look worse than one or two."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An unpacked archive of a network with random weights."""
    made = tmp_path / "archive"
    made.mkdir()
    save_file(torchvision.models.get_model(NAME, weights=None).state_dict(), made / "w.safetensors")
    return made


def of_torchvision(
    folder: Path,
    cache: Path,
    weights_dir: Path | None = None,
    on_measuring: Callable[[bool], None] = lambda is_measuring: None,
    **keys: Any,
) -> ManagedModel:
    config = WorkerConfig(model=NAME, weights="w.safetensors", input_shape=SHAPE, **{"micro_batch": 4, **keys})
    return ManagedModel(config, folder, cache, CPU, 8, weights_dir=weights_dir, on_measuring=on_measuring)


def slow(folder: Path, cache: Path, weights_dir: Path | None = None, **keys: Any) -> ManagedModel:
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(SLOW.format(sleeps=SLEEPS))
    config = WorkerConfig(model="model.py", weights_source="embedded", input_shape=(4,), **keys)
    return ManagedModel(config, folder, cache, CPU, 4, weights_dir=weights_dir)


def answer(model: ManagedModel, batch: torch.Tensor) -> torch.Tensor:
    with model.ready():
        found = model.forward(batch)
    assert isinstance(found, torch.Tensor)
    return found.clone()


def wait_settled(model: ManagedModel) -> None:
    deadline = time.monotonic() + 120
    while model.is_measuring:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, float]], threading.Event]:
    """Have what a process would measure decided here; it is kept once the event is set."""

    def decide(seconds: Mapping[str, float]) -> threading.Event:
        event = threading.Event()
        kept: dict[Path, bool] = {}

        def have_measured(order: later.Order, key: str, is_kept: object) -> None:
            assert event.wait(60)
            kept[order.cache_dir] = True

        def known(self: Measurements, key: str, is_name: Callable[[str], bool]) -> dict[str, float] | None:
            return dict(seconds) if kept.get(self.folder) else None

        monkeypatch.setattr(managed, "have_measured", have_measured)
        monkeypatch.setattr(Measurements, "kept", known)
        return event

    return decide


Measured = Callable[[Mapping[str, float]], threading.Event]


def test_it_answers_at_once_and_goes_over_to_the_fastest(
    folder: Path, built: Path, tmp_path: Path, measured: Measured
) -> None:
    event = measured({"off fp32": 2.0, "winograd fp32": 1.0})
    told: list[bool] = []
    model = of_torchvision(folder, built, tmp_path, told.append)
    batch = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(0))
    first = answer(model, batch)
    assert (model.is_measuring, model.compiler, model.num_loads) == (True, "off", 1)
    assert told == [True]
    event.set()
    wait_settled(model)
    assert told == [True, False]
    assert (model.compiler, model.precision, model.num_loads) == ("winograd", "fp32", 1)
    torch.testing.assert_close(answer(model, batch), first, atol=1e-4 * float(first.abs().max()), rtol=0)
    assert len(list(tmp_path.glob("smartbatch-weights-*.bin"))) == 1, "of the way that serves, and of no other"


def test_pixels_are_normalised_where_they_are_expected_and_else_the_models_own(tmp_path: Path, built: Path) -> None:
    model = slow(tmp_path / "slow", built, micro_batch=4, image_mean=(0.5,), image_std=(0.25,))
    pixels = torch.tensor([[[[0, 255, 51, 102]]]], dtype=torch.uint8)
    assert torch.equal(answer(model, pixels), 2 * pixels + 1)
    model.takes_pixels = True
    assert torch.allclose(answer(model, pixels), 2 * (pixels / 255 - 0.5) / 0.25 + 1)
    floats = torch.rand(1, 1, 1, 4)
    assert torch.equal(answer(model, floats), 2 * floats + 1)


def test_it_goes_over_between_two_batches(folder: Path, built: Path, measured: Measured) -> None:
    event = measured({"off fp32": 2.0, "winograd fp32": 1.0})
    model = of_torchvision(folder, built)
    with model.kept_as_it_is():
        answer(model, torch.zeros((1, *SHAPE)))
        event.set()
        time.sleep(1.0)  # long enough to build it on a quiet machine; the batch is not over
        assert (model.compiler, model.is_measuring) == ("off", True)
    wait_settled(model)
    assert model.compiler == "winograd"


def test_a_model_that_was_freed_meanwhile_stays_so(folder: Path, built: Path, measured: Measured) -> None:
    event = measured({"off fp32": 2.0, "winograd fp32": 1.0})
    told: list[bool] = []
    model = of_torchvision(folder, built, on_measuring=told.append)
    answer(model, torch.zeros((1, *SHAPE)))
    model.unload()
    assert not model.is_measuring
    assert told == [True, False]
    event.set()
    time.sleep(0.5)
    assert (model.is_loaded, model.compiler) == (False, "off")
    answer(model, torch.zeros((1, *SHAPE)))
    wait_settled(model)
    assert (model.compiler, model.num_loads) == ("winograd", 2)
    assert sorted(path.name for path in folder.iterdir()) == ["w.safetensors"], "an archive that is checked, say"


@pytest.mark.parametrize("keys", [{"load": "eager"}, {"compile": "winograd"}, {"compile": "off"}])
def test_who_asks_for_it_by_name_or_at_the_start_has_it_when_it_is_loaded(
    folder: Path, built: Path, measured: Measured, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def remember(*_: object) -> dict[str, float]:
        return {"winograd fp32": 1.0}

    monkeypatch.setattr(Measurements, "remember", remember)
    model = of_torchvision(folder, built, **keys)
    with model.ready():
        assert (model.is_measuring, model.compiler) == (False, keys.get("compile", "winograd"))


def test_what_is_not_measured_is_said_once_and_changes_nothing(
    folder: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process cannot begin."""
    monkeypatch.setattr(later, "PROGRAM", "smartbatch_worker.no_such")
    cache = tmp_path / "cache"
    cache.mkdir()
    model = of_torchvision(folder, cache)
    answer(model, torch.zeros((1, *SHAPE)))
    wait_settled(model)
    assert (model.is_loaded, model.compiler) == (True, "off")
    assert [record.getMessage()[:13] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "not measured,"
    ]
    assert "No module named smartbatch_worker.no_such" in caplog.text


def test_the_process_is_made_by_what_made_the_worker(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache, python = tmp_path / "cache", tmp_path / "a python"
    cache.mkdir()
    python.write_text('#!/bin/sh\necho "made for $*"\nexit 3\n')
    python.chmod(0o700)
    monkeypatch.setenv(FORKED_PYTHON, shlex.join(["/usr/bin/env", str(python)]))
    caplog.set_level(logging.INFO)
    model = of_torchvision(folder, cache)
    answer(model, torch.zeros((1, *SHAPE)))
    wait_settled(model)
    assert f"measuring: made for -m {later.PROGRAM}" in caplog.messages
    assert "the process for it ended with 3" in caplog.text


def test_a_slow_model_is_calibrated_by_a_process_apart_and_a_quick_one_by_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process; another worker that loads the same meanwhile has none of its own, and takes what that found."""
    cache = tmp_path / "cache"
    cache.mkdir()
    model = slow(tmp_path / "slow", cache)
    assert answer(model, torch.ones((1, 4))).tolist() == [[3.0] * 4]
    assert model.is_measuring
    assert model.micro_batch_size((4,)) == 4
    sibling = slow(tmp_path / "slow", cache)
    started = threading.Event()
    measure = later._measure

    def only_one(order: later.Order) -> None:
        assert not started.is_set()
        started.set()
        measure(order)

    monkeypatch.setattr(later, "_measure", only_one)
    answer(sibling, torch.ones((1, 4)))
    for one in (model, sibling):
        wait_settled(one)
        assert one.calibrations is not None
        assert [calibration.best for calibration in one.calibrations.measured] == [4]
    monkeypatch.setattr(managed, "have_measured", None)
    monkeypatch.setattr(calibrate, "QUICK_S", 60.0)  # of a model that takes no time, on a machine that is busy
    (tmp_path / "slow" / "model.py").write_text(SLOW.format(sleeps=0))
    quick = ManagedModel(model._config, tmp_path / "slow", cache, CPU, 4)
    answer(quick, torch.ones((1, 4)))
    assert not quick.is_measuring
    assert quick.calibrations is not None


def test_the_process_ends_with_the_worker(tmp_path: Path) -> None:
    """A worker that is killed closes the pipe."""
    folder = tmp_path / "endless"
    folder.mkdir()
    (folder / "model.py").write_text(
        SLOW.replace("time.sleep({sleeps})", "print('begun', flush=True); time.sleep(600)")
    )
    config = WorkerConfig(model="model.py", weights_source="embedded", input_shape=(4,))
    order = later.Order(
        config=config, model_dir=folder, cache_dir=tmp_path, max_batch_size=1, samples=(), compared=(), num_threads=1
    )
    command = [sys.executable, "-m", later.PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(order, process.stdin)
        process.stdin.flush()
        assert process.stdout.readline() == b"begun\n"
        process.stdin.close()
        assert process.wait(60) == 1


def test_what_was_kept_counts_however_the_process_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a library's threads end by SIGABRT once it has done its work."""
    kept: list[bool] = []

    def ends_badly(order: later.Order) -> None:
        kept.append(True)
        raise later.NotMeasuredError("the process for it ended with -6")

    monkeypatch.setattr(later, "_measure", ends_badly)
    config = WorkerConfig(model="model.py", input_shape=(4,))
    order = later.Order(
        config=config, model_dir=tmp_path, cache_dir=tmp_path, max_batch_size=1, samples=(), compared=(), num_threads=1
    )
    later.have_measured(order, "ab", lambda: bool(kept))
    with pytest.raises(later.NotMeasuredError):
        later.have_measured(order, "ab", lambda: False)


def test_a_worker_without_requests_returns_what_batches_left_to_be_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: list[bool] = []

    def return_free_memory() -> None:
        if threading.current_thread().name == "smartbatch-idle":
            returned.append(True)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 60
        while len(returned) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    monkeypatch.setattr(managed, "RETURN_AFTER_S", 0.0)
    monkeypatch.setattr(heap, "return_free_memory", return_free_memory)
    before = threading.active_count()
    slow(tmp_path / "archive", tmp_path, micro_batch=4)
    assert threading.active_count() == before, "this model is no worker's"
    model = slow(tmp_path / "archive", tmp_path, weights_dir=tmp_path, micro_batch=4)
    for count in (1, 2):
        answer(model, torch.ones(2, 4))
        wait_for(count)
    time.sleep(1.5)  # it looks once a second
    assert len(returned) == 2, "nothing was used since"


def test_a_model_without_requests_is_freed_each_time(tmp_path: Path) -> None:
    freed: list[bool] = []
    model = slow(tmp_path / "archive", tmp_path, micro_batch=4, idle_unload_s=0.1)
    model._on_unload = lambda: freed.append(True)
    for count in (1, 2):
        answer(model, torch.ones(2, 4))
        deadline = time.monotonic() + 60
        while len(freed) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (model.is_loaded, model.num_loads) == (False, count)
