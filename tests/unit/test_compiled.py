"""compile_forward: whatever it picks answers as eager PyTorch does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import torchvision
from smartbatch_worker import winograd
from smartbatch_worker.calibrate import CACHE_FILE, Calibration, calibrate, known_shape, time_forward
from smartbatch_worker.compiled import compile_forward
from smartbatch_worker.config import WorkerConfig

CPU = torch.device("cpu")


def with_lively_statistics(module: torch.nn.Module) -> torch.nn.Module:
    """Batch norms that do something: fresh ones are nearly the identity, and would hide a wrong fold."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (part.running_mean, -0.2, 0.2),
                (part.running_var, 0.5, 1.5),
                (part.weight.data, 0.5, 1.5),
                (part.bias.data, -0.2, 0.2),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("how", ["auto", "off", "winograd"])
def test_answers_equal_eager(name: str, how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = with_lively_statistics(torchvision.models.get_model(name, weights=None))
    config = WorkerConfig(model=name, compile=how)
    with torch.inference_mode():
        forward, picked = compile_forward(module, config, CPU, (3, 96, 96), tmp_path)
        assert picked in ("off", "winograd")
        assert how in ("auto", picked)
        for shape in ((1, 3, 96, 96), (3, 3, 96, 96), (2, 3, 64, 77)):
            batch = torch.randn(shape, generator=torch.Generator().manual_seed(2))
            expected = module(batch)
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(forward(batch), expected, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("conv", "kind"),
    [
        (torch.nn.Conv2d(32, 40, 3, padding=1), winograd.WinogradConv2d),
        (torch.nn.Conv2d(67, 32, 3, padding="same", bias=False), winograd.WinogradConv2d),
        (torch.nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), winograd.DirectConv2d),
        (torch.nn.Conv2d(1, 32, 5, stride=3), winograd.DirectConv2d),
        (torch.nn.Conv2d(4, 96, 1), winograd.DirectConv2d),
    ],
    ids=str,
)
def test_a_layer_of_our_own_equals_pytorchs(
    conv: torch.nn.Conv2d, kind: type[torch.nn.Module], threads: int, tmp_path: Path
) -> None:
    model = torch.nn.Sequential(conv, torch.nn.ReLU()).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            accelerated = winograd.accelerate(model, tmp_path)
            assert any(isinstance(module, kind) for module in accelerated.modules())
            for shape in ((1, 5, 9), (3, 32, 31), (2, 56, 40)):
                batch = torch.randn(
                    (shape[0], conv.in_channels, *shape[1:]), generator=torch.Generator().manual_seed(2)
                )
                torch.testing.assert_close(accelerated(batch), model(batch), atol=1e-4, rtol=0)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [32, 3])
@pytest.mark.parametrize(
    "batch",
    [torch.ones(1, 2, 8, 8), torch.ones(1, 64, 8, 8), torch.ones(3, 8, 8), torch.ones(1, 3, 8, 8).double()],
    ids=lambda batch: f"{batch.dtype}{list(batch.shape)}",
)
def test_our_layers_refuse_what_they_would_misread(batch: torch.Tensor, channels: int, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(channels, 32, 3, padding=1)).eval()
    with torch.inference_mode(), pytest.raises(RuntimeError, match=rf"expected input \[N, {channels}, H, W\]"):
        winograd.accelerate(model, tmp_path)(batch)


@pytest.mark.parametrize("channels", [32, 3])
def test_our_layers_let_nan_through(channels: int, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(channels, 32, 3, padding=1), torch.nn.ReLU()).eval()
    with torch.inference_mode():
        output = winograd.accelerate(model, tmp_path)(torch.full((1, channels, 8, 8), float("nan")))
    assert bool(output.isnan().all())


def test_without_a_compiler_the_forward_stays_pytorchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    module = torchvision.models.get_model("resnet18", weights=None).eval()
    with torch.inference_mode():
        assert compile_forward(module, WorkerConfig(), CPU, (3, 32, 32), tmp_path)[1] == "off"
    with pytest.raises(RuntimeError, match="C compiler"):
        compile_forward(module, WorkerConfig(compile="winograd"), CPU, (3, 32, 32), tmp_path)


def test_a_users_own_source_is_never_traced(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    assert compile_forward(module, WorkerConfig(model="model.py"), CPU, (2,), tmp_path) == (module, "off")
    with pytest.raises(ValueError, match="torchvision"):
        compile_forward(module, WorkerConfig(model="model.py", compile="winograd"), CPU, (2,), tmp_path)


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


def test_a_forward_that_waits_is_timed_by_the_wall_clock() -> None:
    assert time_forward(lambda _: time.sleep(0.02), torch.zeros(1), CPU) >= 0.02


def test_the_smallest_size_near_the_fastest_wins() -> None:
    calibration = Calibration((3, 10, 10), {1: 2.0, 2: 1.5, 4: 1.005, 8: 1.0, 16: 1.3})
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
