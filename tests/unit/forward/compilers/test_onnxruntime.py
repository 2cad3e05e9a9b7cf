"""ONNX Runtime: a graph in the cache that has no weights, and who makes it."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward import measure
from smartbatch_worker.forward.choose import Choice, Compiled, compile_forward
from smartbatch_worker.forward.compilers import onnxruntime
from smartbatch_worker.forward.compilers.compiler import Task
from smartbatch_worker.forward.compilers.onnxruntime import Graph
from smartbatch_worker.forward.measurements import Measurements

from tests.unit.networks import installed, torch_threads, with_lively_statistics

CPU = torch.device("cpu")
SHAPE = (3, 16, 16)


def network(seed: int = 0) -> torch.nn.Module:
    """One whose batch norms stay, as a user's own are not folded."""
    torch.manual_seed(seed)
    return with_lively_statistics(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 64, 3, padding=1),
            torch.nn.BatchNorm2d(64),
            torch.nn.Hardswish(),
            torch.nn.Conv2d(64, 64, 3, groups=64),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(64, 500),
        )
    )


def compiled(cache: Path, seed: int = 0) -> Compiled:
    """A user's model, by ONNX Runtime; right."""
    config = WorkerConfig(model="model.py", compile="onnxruntime", input_shape=SHAPE)
    with torch.inference_mode():
        made = compile_forward(network(seed), config, CPU, SHAPE, Measurements(cache))
        for count in (1, 2, 5):
            batch = torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(3))
            torch.testing.assert_close(made.forward(batch), network(seed)(batch), rtol=0, atol=1e-4)
    return made


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """What was, each time."""
    tasks: list[Task] = []
    export = onnxruntime._export

    def noted(task: Task, *rest: object) -> Graph:
        tasks.append(task)
        return export(task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(onnxruntime, "_export", noted)
    return tasks


def test_the_graph_is_kept_without_weights_and_damaged_ones_are_made_anew(tmp_path: Path, exported: list[Task]) -> None:
    compiled(tmp_path)
    compiled(tmp_path)
    compiled(tmp_path, seed=1)  # other weights
    assert len(exported) == 1
    (file,) = tmp_path.glob("*.onnx")
    whole = file.read_bytes()
    assert len(whole) < 20_000 < 4 * sum(tensor.numel() for tensor in network().parameters())
    for damaged in (b"", whole[:100], whole[:-1], whole[:200] + b"?" + whole[201:]):
        assert Graph.from_bytes(damaged) is None
    file.write_bytes(whole[:-1])
    compiled(tmp_path)
    assert (len(exported), file.read_bytes()) == (2, whole)


def test_several_threads_compute_the_same(tmp_path: Path) -> None:
    with torch_threads(2):
        compiled(tmp_path)


def test_a_graph_that_cannot_be_kept_serves_all_the_same(
    tmp_path: Path, exported: list[Task], caplog: pytest.LogCaptureFixture
) -> None:
    compiled(tmp_path / "nowhere" / os.devnull)
    assert "the graph is not kept" in caplog.text
    assert len(exported) == 1


def test_a_graph_of_numbers_that_are_no_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Adds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ torch.ones(768, 768)

    monkeypatch.setattr(onnxruntime, "MAX_GRAPH_BYTES", 1000)
    config = WorkerConfig(model="model.py", compile="onnxruntime", input_shape=SHAPE)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"the graph without weights has \d+ bytes, more than"):
        compile_forward(Adds(), config, CPU, SHAPE, Measurements(tmp_path))


def test_a_worker_that_answers_exports_nothing(
    tmp_path: Path, exported: list[Task], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for a new measurement instead, whose process does."""
    installed(monkeypatch, "onnxruntime")
    caplog.set_level("INFO")

    def time_forward(forward: object, *_: object) -> float:
        return 1.0 if getattr(forward, "__qualname__", "").startswith("_of_one") else 2.0

    monkeypatch.setattr(measure, "time_forward", time_forward)
    measurements, config = Measurements(tmp_path), WorkerConfig(model="timm/x")

    def choice() -> Choice:
        first = compile_forward(network(), config, CPU, SHAPE, measurements, at_once=True)
        assert (first.way, first.choice is not None) == ("off fp32", True)
        assert first.choice is not None
        return first.choice

    with torch.inference_mode():
        assert choice().name() is None
        assert compile_forward(network(), config, CPU, SHAPE, measurements).way == "onnxruntime fp32"
        assert choice().name() == "onnxruntime fp32"
        known = choice().known(nullcontext)
        assert (known is not None and known.way, len(exported)) == ("onnxruntime fp32", 1)
        (file,) = tmp_path.glob("*.onnx")
        file.unlink()
        assert choice().name() is None
        known = choice().known(nullcontext)
        assert (known is not None and known.way, len(exported)) == ("off fp32", 1)
        assert "not exported while the model answers" in caplog.text
        assert compile_forward(network(), config, CPU, SHAPE, measurements).way == "onnxruntime fp32"
        assert (choice().name(), len(exported)) == ("onnxruntime fp32", 2)
