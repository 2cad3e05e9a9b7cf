"""compile_forward: whatever it picks answers as eager PyTorch does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward import precision
from smartbatch_worker.forward.choose import Compiled, compile_forward
from smartbatch_worker.forward.compilers import openvino, winograd
from smartbatch_worker.forward.measurements import MAX_AGE_OF_A_PART_S, MAX_AGE_S, Measurements
from smartbatch_worker.kernels.convolutions import compiled

from tests.unit.networks import installed, lively_resnet18, lively_small_network, needs_bf16, with_lively_statistics

CPU = torch.device("cpu")


@pytest.fixture
def model_dir(tmp_path: Path, built: Path) -> Path:
    """A cache of the test's own that holds what was built, and no measurement."""
    compiled.build(built)
    for library in built.glob("*.so"):
        shutil.copy(library, tmp_path)
    return tmp_path


# Our own way is tried on both networks; what is PyTorch's or a library's on the one that is compiled sooner.
@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("winograd", "resnet18"),
        ("winograd", "mobilenet_v3_small"),
        ("off", "mobilenet_v3_small"),
        ("openvino", "mobilenet_v3_small"),
        ("onnxruntime", "resnet18"),
        ("auto", "resnet18"),
    ],
)
def test_answers_equal_eager(name: str, how: str, model_dir: Path) -> None:
    torch.manual_seed(0)
    module = with_lively_statistics(torchvision.models.get_model(name, weights=None))
    config = WorkerConfig(model=name, compile=how)
    with torch.inference_mode():
        made = compile_forward(module, config, CPU, (3, 96, 96), Measurements(model_dir))
        assert made.name in ("off", "winograd", "openvino", "onnxruntime")
        assert how in ("auto", made.name)
        assert made.precision == "fp32"
        for shape in ((1, 3, 96, 96), (3, 3, 96, 96), (2, 3, 64, 77)):
            batch = torch.randn(shape, generator=torch.Generator().manual_seed(2))
            expected = module(batch)
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(made.forward(batch), expected, atol=1e-4 * scale, rtol=0)


@needs_bf16
@pytest.mark.parametrize("how", ["auto", "winograd", "off", "openvino"])
def test_bf16_is_as_precise_as_a_model_converted_to_it(how: str, model_dir: Path) -> None:
    batch = torch.randn((4, 3, 96, 96), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = lively_resnet18()(batch)
        converted = lively_resnet18().to(torch.bfloat16)(batch.to(torch.bfloat16)).float()
        made = compile_forward(
            lively_resnet18(), WorkerConfig(precision="bf16", compile=how), CPU, (3, 96, 96), Measurements(model_dir)
        )
        answer = made.forward(batch)
    assert how in ("auto", made.name)
    assert made.precision == "bf16" or how == "auto"
    error, allowed = (float((other - expected).square().mean().sqrt()) for other in (answer.float(), converted))
    assert error <= 2 * allowed


def test_bf16_is_computed_in_fp32_where_the_cpu_has_none(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (precision, winograd):
        monkeypatch.setattr(module, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    batch = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = lively_small_network()(batch)
        made = compile_forward(
            lively_small_network(), WorkerConfig(precision="bf16"), CPU, (3, 64, 64), Measurements(model_dir)
        )
        assert made.precision == "fp32"
        torch.testing.assert_close(made.forward(batch), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("coarse", ["bf16", "fp16"])
@pytest.mark.parametrize("model", ["model.py", "timm/x", "config.json"])
def test_a_precision_that_the_cpu_has_not_is_emulated_only_where_a_compiler_is_named(
    model: str, coarse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(monkeypatch)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    for compile_by, computes_in in (("auto", "fp32"), ("off", coarse)):
        config = WorkerConfig(model=model, task="image-classification", precision=coarse, compile=compile_by)
        made = compile_forward(torch.nn.Linear(2, 2), config, CPU, (2,), Measurements(tmp_path))
        assert made.precision == computes_in
        assert (f"precision {coarse} is emulated" in caplog.text) == (compile_by == "off")


def fastest(model_dir: Path) -> str:
    """The way that is taken for a small network."""
    return compile_forward(lively_small_network(), WorkerConfig(), CPU, (3, 32, 32), Measurements(model_dir)).name


def test_a_way_that_answers_wrongly_is_not_taken(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(module: torch.nn.Module, cache_dir: Path, bf16: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda batch: 1.001 * module(batch)

    installed(monkeypatch)  # as most machines are: PyTorch is what is left
    monkeypatch.setattr(winograd, "accelerate", wrong)
    with torch.inference_mode():
        assert fastest(model_dir) == "off"
    assert "winograd in fp32 differs" in caplog.text
    (file,) = model_dir.glob("*.json")
    kept = json.loads(file.read_text())
    assert kept["until"] - kept["measured"] == MAX_AGE_OF_A_PART_S, "what failed once is tried again"


def test_one_disturbed_measurement_decides_nothing(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was taken while another worker of the same process was loading."""
    installed(monkeypatch, "openvino")
    seconds = iter([0.13, 0.30, 0.10, 0.13, 0.05, 0.10, 0.13, 0.05, 0.10])
    monkeypatch.setattr("smartbatch_worker.forward.measure.time_forward", lambda *_: next(seconds))
    with torch.inference_mode():
        assert fastest(model_dir) == "winograd"
    (file,) = model_dir.glob("*.json")
    kept = json.loads(file.read_text())
    assert list(kept["seconds"]) == ["off fp32", "winograd fp32", "openvino fp32"]
    assert kept["until"] - kept["measured"] == MAX_AGE_S


@pytest.mark.parametrize(
    ("libraries", "seconds", "taken"),
    [
        (["onnxruntime"], [1.0, 0.4] * 3, "winograd"),
        (["onnxruntime"], [1.0, 0.6] * 3 + [1.0, 0.6, 0.5] * 3, "onnxruntime"),
        (["openvino", "onnxruntime"], [1.0, 0.9, 0.4] * 3 + [1.0, 0.9, 0.4, 0.3] * 3, "onnxruntime"),
    ],
)
def test_what_takes_long_to_make_is_not_made_where_convolutions_of_our_own_decide(
    libraries: list[str], seconds: list[float], taken: str, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, *libraries)
    measured = iter(seconds)
    monkeypatch.setattr("smartbatch_worker.forward.measure.time_forward", lambda *_: next(measured))
    with torch.inference_mode():
        assert fastest(model_dir) == taken
    is_exported = taken == "onnxruntime"
    assert (len(list(model_dir.glob("*.onnx"))), list(measured)) == (int(is_exported), [])
    (file,) = model_dir.glob("*.json")
    kept = json.loads(file.read_text())
    assert ("onnxruntime fp32" in kept["seconds"]) == is_exported
    assert kept["until"] - kept["measured"] == MAX_AGE_S


def test_the_second_fastest_way_is_taken_where_the_fastest_fails_now(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(monkeypatch, "openvino")
    seconds = {"off fp32": 3.0, "openvino fp32": 2.0, "winograd fp32": 1.0}

    def remember(
        self: Measurements, key: str, measure_it: object, is_name: Callable[[str], bool], is_whole: object
    ) -> dict[str, float]:
        assert all(is_name(name) for name in seconds), "all three are tried here"
        return seconds

    monkeypatch.setattr(Measurements, "remember", remember)
    with torch.inference_mode():
        for name, needed in (("winograd", winograd), ("openvino", None), ("off", None)):
            assert fastest(model_dir) == name
            if needed is not None:
                monkeypatch.setattr(needed, "accelerate", fails)
            else:
                monkeypatch.setattr(openvino, "_core", fails)
    assert "openvino in fp32 fails" in caplog.text


def fails(*_: object) -> None:
    raise RuntimeError("not today")


def test_a_way_that_fails_is_not_taken(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(monkeypatch)  # as most machines are: PyTorch is what is left

    class Wide(torch.nn.Module):
        """Adds an image to one number a channel: the sum is larger than what the convolution gives."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(32, 32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small: torch.Tensor = self.conv(x.mean((2, 3), keepdim=True))
            return small + x

    with torch.inference_mode():
        made = compile_forward(Wide().eval(), WorkerConfig(), CPU, (32, 8, 8), Measurements(model_dir))
    assert made.name == "off"
    assert "winograd in fp32 fails" in caplog.text


def test_without_a_compiler_the_forward_stays_pytorchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    installed(monkeypatch)  # as most machines are: PyTorch is what is left
    module = lively_small_network()
    with torch.inference_mode():
        assert compile_forward(module, WorkerConfig(), CPU, (3, 32, 32), Measurements(tmp_path)).name == "off"
    with pytest.raises(RuntimeError, match="C compiler"):
        compile_forward(module, WorkerConfig(compile="winograd"), CPU, (3, 32, 32), Measurements(tmp_path))


def test_a_users_own_source_is_never_traced(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    made = compile_forward(module, WorkerConfig(model="model.py"), CPU, (2,), Measurements(tmp_path))
    assert made == Compiled(module, "off", "fp32")
    with pytest.raises(ValueError, match="torchvision"):
        compile_forward(module, WorkerConfig(model="model.py", compile="winograd"), CPU, (2,), Measurements(tmp_path))
