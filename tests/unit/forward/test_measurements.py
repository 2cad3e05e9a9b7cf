"""Measurements: taken once, kept for what they were taken of and under what, taken again where what is kept is none."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from smartbatch.retune.store import RetuneStore
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward import measurements
from smartbatch_worker.forward.measurements import MAX_AGE_OF_A_PART_S, MAX_AGE_S, Measurements
from smartbatch_worker.kernels import native

KEY = "a way"
MODEL = WorkerConfig(model="model.py", weights="w.pth")


class Clock:
    """Measures a second more each time."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> dict[str, float]:
        self.count += 1
        return {"eager": float(self.count)}


version_of = measurements._version


def is_eager(name: str) -> bool:
    return name == "eager"


def remembered(kept: Measurements, clock: Clock, key: str = KEY) -> float:
    return kept.remember(key, clock, is_eager)["eager"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An unpacked archive."""
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "model.py").write_text("import layers")
    (folder / "layers.py").write_text("two = 2")
    (folder / "w.pth").write_bytes(b"weights")
    (folder / "model-config.yaml").write_text("jobQueueSize: 100")
    return folder


def test_is_measured_once_a_key(tmp_path: Path) -> None:
    clock = Clock()
    assert [remembered(Measurements(tmp_path), clock, key) for key in ("a", "a", "b", "a", "b")] == [1, 1, 2, 1, 2]


NO_MEASUREMENTS: tuple[Any, ...] = (
    None,
    [],
    {},
    3,
    "x",
    {"eager": "fast"},
    {"eager": None},
    {"eager": 1},
    {"lazy": 1.0},
)
SPOILED: dict[str, Any] = {
    "another's": {"key": "another"},
    "from days to come": {"measured": time.time() + 3600},
    "too old": {"until": time.time() - 1},
    "of all time": {"until": time.time() + 2 * MAX_AGE_S},
    "at no time": {"measured": None},
    "until no time": {"until": "later"},
    "not finite": {"seconds": {"eager": math.nan}},
    **{f"no seconds: {seconds}": {"seconds": seconds} for seconds in NO_MEASUREMENTS},
}


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED.keys())
def test_what_is_kept_but_is_no_measurement_is_measured_again(tmp_path: Path, spoiled: dict[str, Any]) -> None:
    clock, kept = Clock(), Measurements(tmp_path)
    remembered(kept, clock)
    (file,) = tmp_path.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | spoiled))
    assert [remembered(kept, clock), remembered(kept, clock)] == [2, 2]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"7", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_something_else_is_measured_again(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    clock, kept = Clock(), Measurements(tmp_path)
    remembered(kept, clock)
    assert not caplog.records
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(content)
    assert [remembered(kept, clock), remembered(kept, clock)] == [2, 2]
    (told,) = caplog.messages
    assert told == f"{file} cannot be read as a measurement, and is measured again"


def test_where_nothing_can_be_kept_each_measures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    (tmp_path / "file").touch()
    assert [remembered(Measurements(tmp_path / "file" / "folder"), clock) for _ in range(2)] == [1, 2]
    assert "not kept" in caplog.text


def test_a_part_is_measured_again_sooner(tmp_path: Path) -> None:
    for key, is_whole, age_s in (("whole", True, MAX_AGE_S), ("part", False, MAX_AGE_OF_A_PART_S)):
        folder = tmp_path / key
        Measurements(folder).remember(KEY, Clock(), is_eager, lambda is_whole=is_whole: is_whole)  # type: ignore[misc]
        (file,) = folder.glob("*.json")
        entry = json.loads(file.read_text())
        assert entry["until"] - entry["measured"] == age_s


@pytest.mark.parametrize(
    "change",
    [
        lambda archive: (archive / "layers.py").write_text("two = 3"),
        lambda archive: (archive / "model.py").write_text("import layers, math"),
        lambda archive: (archive / "w.pth").write_bytes(b"weightz"),
        lambda archive: (archive / "more.py").touch(),
    ],
)
def test_of_other_bytes_it_is_measured_again(
    tmp_path: Path, archive: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "WHOLLY_READ_BYTES", 4)  # both ends of what is larger
    clock = Clock()
    assert remembered(Measurements.of(archive, MODEL, tmp_path), clock) == 1
    (archive / "model-config.yaml").write_text("jobQueueSize: 200")  # which decides nothing about a forward
    (archive / "MAR-INF").mkdir()
    (archive / "MAR-INF" / "MANIFEST.json").write_text("{}")
    assert remembered(Measurements.of(archive, MODEL, tmp_path), clock) == 1
    change(archive)
    assert remembered(Measurements.of(archive, MODEL, tmp_path), clock) == 2


@pytest.mark.parametrize("key", ["model_class", "num_classes"])
def test_of_another_setting_it_is_measured_again(tmp_path: Path, archive: Path, key: str) -> None:
    clock = Clock()
    for values in ({}, {key: "7"}):
        config = WorkerConfig.resolve({"model": "model.py", **values}, {})
        remembered(Measurements.of(archive, config, tmp_path), clock)
    assert clock.count == 2


@pytest.mark.parametrize("values", [{"task": "text-classification"}, {"max_new_tokens": "7"}, {"pooling": "cls"}])
def test_what_a_folder_is_served_for_is_told_apart(tmp_path: Path, values: dict[str, str]) -> None:
    """Its files are the same, and a forward that writes longer texts takes longer."""
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    clock, config = Clock(), {"model": "bert/config.json", "task": "text-generation"}
    for section in (config, config | values, config):
        remembered(Measurements.of(tmp_path, WorkerConfig.resolve(section, {}), tmp_path), clock)
    assert clock.count == 2


def test_a_folders_weights_and_library_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    config = WorkerConfig.resolve({"model": "bert/config.json", "task": "text-generation"}, {})
    clock = Clock()
    remembered(Measurements.of(tmp_path, config, tmp_path), clock)
    (tmp_path / "bert" / "model-00001-of-00002.safetensors").write_bytes(b"weights")
    assert remembered(Measurements.of(tmp_path, config, tmp_path), clock) == 2
    versions = {"transformers": "99"}
    monkeypatch.setattr(measurements, "_version", lambda package: versions.get(package, version_of(package)))
    assert remembered(Measurements.of(tmp_path, config, tmp_path), clock) == 3


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (torch, "get_num_threads", 77),
        (measurements, "num_cores", 77),
        (measurements, "cpu_name", "another"),
        (measurements, "cpu_flags", frozenset({"sse"})),
        (native, "compiler_id", "another"),
        (measurements, "_version", "another"),
        (torch.backends.cpu, "get_cpu_capability", "another"),
    ],
)
def test_under_other_circumstances_it_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
) -> None:
    clock = Clock()
    remembered(Measurements(tmp_path), clock)
    with monkeypatch.context() as changed:
        changed.setattr(where, name, lambda *_: value)
        assert remembered(Measurements(tmp_path), clock) == 2
    assert remembered(Measurements(tmp_path), clock) == 1, "both are kept"


def test_smartbatch_tune_has_it_measured_again_and_once(tmp_path: Path, archive: Path) -> None:
    clock = Clock()
    assert remembered(Measurements.of(archive, MODEL, tmp_path), clock) == 1
    (file,) = tmp_path.glob("*.json")
    entry = json.loads(file.read_text())
    file.write_text(json.dumps(entry | {"measured": entry["measured"] - 60}))
    RetuneStore(tmp_path).forget_measurements(archive)
    assert [remembered(Measurements.of(archive, MODEL, tmp_path), clock) for _ in range(2)] == [2, 2]


def test_workers_that_start_at_once_measure_once(tmp_path: Path) -> None:
    """Threads here: the lock is one of open files, and does not ask whose they are."""
    clock = Clock()

    def measure_it() -> dict[str, float]:
        time.sleep(0.1)
        return clock()

    with ThreadPoolExecutor(4) as pool:
        kept = pool.map(lambda _: Measurements(tmp_path).remember(KEY, measure_it, is_eager), range(4))
        assert list(kept) == [{"eager": 1.0}] * 4
