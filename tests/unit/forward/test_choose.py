"""compile_forward: whatever it picks answers as eager PyTorch does."""

from __future__ import annotations

import itertools
import json
import operator
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torchvision
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward import precision
from smartbatch_worker.forward.choose import Compiled, compile_forward
from smartbatch_worker.forward.compilers import openvino, winograd
from smartbatch_worker.forward.measurements import MAX_AGE_OF_A_PART_S, MAX_AGE_S, Measurements
from smartbatch_worker.kernels.convolutions import layers

CPU = torch.device("cpu")


@pytest.fixture
def model_dir(tmp_path: Path, built: Path) -> Path:
    """A cache of the test's own that holds what was built, and no measurement."""
    layers.build(built)
    for library in built.glob("*.so"):
        shutil.copy(library, tmp_path)
    return tmp_path


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


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """`count` of them for the length of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("how", ["auto", "off", "winograd", "openvino"])
def test_answers_equal_eager(name: str, how: str, model_dir: Path) -> None:
    torch.manual_seed(0)
    module = with_lively_statistics(torchvision.models.get_model(name, weights=None))
    config = WorkerConfig(model=name, compile=how)
    with torch.inference_mode():
        made = compile_forward(module, config, CPU, (3, 96, 96), Measurements(model_dir))
        assert made.name in ("off", "winograd", "openvino")
        assert how in ("auto", made.name)
        assert made.precision == "fp32"
        for shape in ((1, 3, 96, 96), (3, 3, 96, 96), (2, 3, 64, 77)):
            batch = torch.randn(shape, generator=torch.Generator().manual_seed(2))
            expected = module(batch)
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(made.forward(batch), expected, atol=1e-4 * scale, rtol=0)


needs_bf16 = pytest.mark.skipif(not winograd.has_bf16_products(), reason="this CPU has no avx512_bf16")


def lively_resnet18() -> torch.nn.Module:
    torch.manual_seed(0)
    return with_lively_statistics(torchvision.models.resnet18(weights=None))


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
        expected = lively_resnet18()(batch)
        made = compile_forward(
            lively_resnet18(), WorkerConfig(precision="bf16"), CPU, (3, 64, 64), Measurements(model_dir)
        )
        assert made.precision == "fp32"
        torch.testing.assert_close(made.forward(batch), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """As most machines are: PyTorch is what is left where Winograd is not taken."""
    monkeypatch.setattr(openvino, "find_spec", lambda _: None)


def fastest(model_dir: Path) -> str:
    """The way that is taken for a ResNet18."""
    return compile_forward(lively_resnet18(), WorkerConfig(), CPU, (3, 32, 32), Measurements(model_dir)).name


def test_a_way_that_answers_wrongly_is_not_taken(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(module: torch.nn.Module, cache_dir: Path, bf16: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda batch: 1.001 * module(batch)

    without_openvino(monkeypatch)
    monkeypatch.setattr(winograd, "accelerate", wrong)
    with torch.inference_mode():
        assert fastest(model_dir) == "off"
    assert "winograd in fp32 differs" in caplog.text
    (file,) = model_dir.glob("*.json")
    kept = json.loads(file.read_text())
    assert kept["until"] - kept["measured"] == MAX_AGE_OF_A_PART_S, "what failed once is tried again"


def test_one_disturbed_measurement_decides_nothing(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was taken while another worker of the same process was loading."""
    seconds = iter([0.13, 0.30, 0.10, 0.13, 0.05, 0.10, 0.13, 0.05, 0.10])
    monkeypatch.setattr("smartbatch_worker.forward.measure.time_forward", lambda *_: next(seconds))
    with torch.inference_mode():
        assert fastest(model_dir) == "winograd"
    (file,) = model_dir.glob("*.json")
    kept = json.loads(file.read_text())
    assert list(kept["seconds"]) == ["off fp32", "winograd fp32", "openvino fp32"]
    assert kept["until"] - kept["measured"] == MAX_AGE_S


def test_the_second_fastest_way_is_taken_where_the_fastest_fails_now(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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


class OfItsSize(torch.nn.Module):
    """What its Python works out from a size is not among its tensor operations, as with Swin's windows."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * (int(x.shape[self.dimension]) % 7)


def test_openvino_runs_the_shape_it_was_read_for_and_pytorch_the_others(tmp_path: Path) -> None:
    config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, None, None))
    with torch.inference_mode():
        made = compile_forward(OfItsSize(2), config, CPU, (3, 32, 32), Measurements(tmp_path))
        for side in (32, 33, 37):
            batch = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(2))
            torch.testing.assert_close(made.forward(batch), OfItsSize(2)(batch))


def test_openvino_is_refused_where_the_number_of_items_changes_what_a_module_does(tmp_path: Path) -> None:
    config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
    with torch.inference_mode(), pytest.raises(ValueError, match="for 3 items"):
        compile_forward(OfItsSize(0), config, CPU, (3, 32, 32), Measurements(tmp_path))


def test_a_signal_is_survived_after_another_thread_freed_what_openvino_made(tmp_path: Path) -> None:
    """As after an idle unload; in a process of its own, which it might end."""
    program = """if True:
        import os, signal, sys, threading, torch
        from pathlib import Path
        from smartbatch_worker.forward.choose import compile_forward
        from smartbatch_worker.forward.measurements import Measurements
        from smartbatch_worker.contract.config import WorkerConfig
        signal.signal(signal.SIGTERM, lambda *_: print("handled"))
        config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
        conv, cpu = torch.nn.Conv2d(3, 8, 3), torch.device("cpu")
        with torch.inference_mode():
            made = [compile_forward(conv, config, cpu, (3, 32, 32), Measurements(Path(sys.argv[1])))]
            made[0].forward(torch.ones(2, 3, 32, 32))
        freeing = threading.Thread(target=made.clear)
        freeing.start()
        freeing.join()
        os.kill(os.getpid(), signal.SIGTERM)
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    handler = Path(winograd.__file__).parents[3]
    done = subprocess.run(command, timeout=120, check=False, cwd=handler, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system tells no affinity")
def test_openvino_leaves_the_choice_of_cores_to_the_system(tmp_path: Path) -> None:
    """Pinned, all workers' threads would share the first cores."""
    config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
    with torch.inference_mode(), torch_threads(1):
        made = compile_forward(torch.nn.Conv2d(3, 8, 3), config, CPU, (3, 32, 32), Measurements(tmp_path))
        made.forward(torch.ones(2, 3, 32, 32))
    masks = {frozenset(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()}
    assert masks == {frozenset(os.sched_getaffinity(0))}


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("conv", "kind"),
    [
        (torch.nn.Conv2d(32, 48, 3, padding=1), layers.WinogradConv2d),
        (torch.nn.Conv2d(80, 32, 3, padding="same", bias=False), layers.WinogradConv2d),
        (torch.nn.Conv2d(160, 144, 3, padding=1), layers.WinogradConv2d),
        (torch.nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), layers.StridedWinogradConv2d),
        (torch.nn.Conv2d(1, 32, 7, stride=2, padding=5), layers.StridedWinogradConv2d),
        (torch.nn.Conv2d(4, 96, 7, stride=2, padding=1), layers.StridedWinogradConv2d),
        (torch.nn.Conv2d(5, 32, 7, stride=2, padding=3), layers.DirectConv2d),
        (torch.nn.Conv2d(1, 32, 5, stride=3), layers.DirectConv2d),
        (torch.nn.Conv2d(4, 96, 1), layers.DirectConv2d),
        (torch.nn.Conv2d(48, 96, 1), layers.DirectConv2d),
        (torch.nn.Conv2d(64, 32, 1, stride=2), layers.DirectConv2d),
        (torch.nn.Conv2d(48, 64, 3, stride=2, padding=1), layers.WinogradConv2d),
        (torch.nn.Conv2d(160, 144, 3, stride=2, padding=1, bias=False), layers.WinogradConv2d),
        (torch.nn.Conv2d(48, 64, 3, stride=2), layers.DirectConv2d),
        (torch.nn.Conv2d(16, 64, 3, stride=2, padding=1), layers.DirectConv2d),
        (torch.nn.Conv2d(256, 512, 3, stride=2, padding=1), layers.DirectConv2d),
    ],
    ids=str,
)
def test_a_layer_of_our_own_equals_pytorchs(
    conv: torch.nn.Conv2d, kind: type[torch.nn.Module], threads: int, bf16: bool, built: Path
) -> None:
    torch.manual_seed(0)
    conv.reset_parameters()
    model = torch.nn.Sequential(conv, torch.nn.ReLU()).eval()
    with torch.inference_mode(), torch_threads(threads):
        accelerated = winograd.accelerate(model, built, bf16)
        assert any(isinstance(module, kind) for module in accelerated.modules())
        for shape in ((1, 5, 9), (3, 32, 31), (2, 56, 40)):
            batch = torch.randn((shape[0], conv.in_channels, *shape[1:]), generator=torch.Generator().manual_seed(2))
            actual, expected = accelerated(batch), model(batch)
            torch.testing.assert_close(actual, expected, atol=0.05 if bf16 else 1e-4, rtol=0)
            error = (actual - expected).square().mean().sqrt() / expected.square().mean().sqrt()
            assert error < (0.02 if bf16 else 1e-5)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize("stride", [1, 2])
def test_images_of_any_size_are_tiled(stride: int, bf16: bool, built: Path) -> None:
    """Tiles of one to four outputs a side, in every combination, and several blocks of them.

    The bound for bf16 is a wide one: it is the largest of 400,000 errors.
    """
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(32, 48, 3, stride=stride, padding=1)).eval()
    with torch.inference_mode():
        accelerated = winograd.accelerate(model, built, bf16)
        assert any(isinstance(module, layers.WinogradConv2d) for module in accelerated.modules())
        for images, height, width in [*itertools.product((3,), range(1, 18), range(1, 18)), (9, 45, 43)]:
            batch = torch.randn((images, 32, height, width), generator=torch.Generator().manual_seed(2))
            torch.testing.assert_close(accelerated(batch), model(batch), atol=0.1 if bf16 else 1e-4, rtol=0)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize("shape", [(3, 32, 31), (2, 45, 64), (1, 3, 5), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (7, 2)])
def test_a_first_layer_pools_as_pytorch_does(
    kernel: int, stride: int, shape: tuple[int, int, int], clips: bool, bf16: bool, built: Path
) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 64, kernel, stride=stride, padding=kernel // 2)
    layers = [conv, *([torch.nn.ReLU()] if clips else []), torch.nn.MaxPool2d(3, 2, 1)]
    model = torch.nn.Sequential(*layers).eval()
    with torch.inference_mode():
        accelerated = winograd.accelerate(model, built, bf16)
        assert not any(isinstance(module, torch.nn.MaxPool2d) for module in accelerated.modules())
        batch = torch.randn((shape[0], 3, *shape[1:]), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(accelerated(batch), model(batch), atol=0.05 if bf16 else 1e-4, rtol=0)


@pytest.mark.parametrize("pool", [torch.nn.MaxPool2d(2, 2), torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True)], ids=str)
def test_another_pooling_stays_pytorchs(pool: torch.nn.Module, built: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, padding=1), pool).eval()
    batch = torch.randn((1, 3, 16, 17), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(winograd.accelerate(model, built)(batch), model(batch), atol=1e-4, rtol=0)


class Residual(torch.nn.Module):
    """The end of a ResNet's block; what it adds may be narrower than the result, or wider."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(64, 96, kernel, stride=stride, padding=kernel // 2)
        self.other = torch.nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + self.other(x)[:, :1])


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_block_adds_and_clips_in_one_go(kernel: int, stride: int, threads: int, bf16: bool, built: Path) -> None:
    torch.manual_seed(0)
    model = Residual(kernel, stride).eval()
    batch = torch.randn((2, 64, 15, 13), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode(), torch_threads(threads):
        accelerated = winograd.accelerate(model, built, bf16)
        assert isinstance(accelerated, torch.fx.GraphModule)
        assert not [node for node in accelerated.graph.nodes if node.target in (operator.add, torch.relu)]
        torch.testing.assert_close(accelerated(batch), model(batch), atol=0.05 if bf16 else 1e-4, rtol=0)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize("images", [1, 5])
def test_any_number_of_threads_gives_the_same_bits(images: int, bf16: bool, built: Path) -> None:
    """Threads share tiles or channels; neither changes the order in which one output's products are summed."""
    torch.manual_seed(0)
    model = with_lively_statistics(torchvision.models.resnet18(weights=None))
    batch = torch.randn((images, 3, 70, 66), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        accelerated = winograd.accelerate(torch.nn.Sequential(*list(model.children())[:-2]), built, bf16)
        with torch_threads(1):
            expected = accelerated(batch)
        for threads in (2, 3, 7, 2):
            with torch_threads(threads):
                assert torch.equal(accelerated(batch), expected)


def test_forwards_of_several_threads_do_not_disturb_each_other(built: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU()).eval()
    accelerated = winograd.accelerate(model, built)
    batches = [torch.randn((1, 64, 20, 20), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    with torch.inference_mode(), torch_threads(1):
        expected = [accelerated(batch) for batch in batches]

    def run(index: int) -> bool:
        torch.set_num_threads(2)
        with torch.inference_mode():
            return all(torch.equal(accelerated(batches[index]), expected[index]) for _ in range(200))

    with ThreadPoolExecutor(len(batches)) as executor:
        assert all(executor.map(run, range(len(batches))))


def test_a_forked_process_computes_too(built: Path) -> None:
    """Threads do not live on in a child: it must not wait for its parent's."""
    program = """if True:
        import os, sys, torch
        from pathlib import Path
        from smartbatch_worker.forward.compilers import winograd
        accelerated = winograd.accelerate(torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1)), Path(sys.argv[1]))
        batch = torch.ones(1, 64, 20, 20)
        torch.set_num_threads(2)
        with torch.inference_mode():
            expected = accelerated(batch)
            child = os.fork()
            is_equal = all(torch.equal(accelerated(batch), expected) for _ in range(20))
        if child == 0:
            os._exit(not is_equal)
        sys.exit(not is_equal or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    handler = Path(winograd.__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program, str(built)], timeout=120, check=False, cwd=handler)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("conv", "least"),
    [
        (torch.nn.Conv2d(32, 32, 3, padding=1), 1),
        (torch.nn.Conv2d(32, 32, 3, stride=2, padding=1), 1),
        (torch.nn.Conv2d(3, 32, 7, stride=2, padding=2), 3),
        (torch.nn.Conv2d(16, 32, 5, padding=1), 3),
        (torch.nn.Conv2d(16, 32, 1), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", [1, 2])
def test_images_smaller_than_the_kernel_are_refused(
    conv: torch.nn.Conv2d, least: int, threads: int, built: Path
) -> None:
    """A client may send them where no input_shape is set; the worker must outlive them."""
    model = torch.nn.Sequential(conv).eval()
    accelerated = winograd.accelerate(model, built)
    assert not any(type(module) is torch.nn.Conv2d for module in accelerated.modules())
    with torch.inference_mode(), torch_threads(threads):
        for height, width in ((least - 1, least), (least, least - 1), (0, 0)):
            for run in (model, accelerated):
                with pytest.raises(RuntimeError):
                    run(torch.ones(1, conv.in_channels, height, width))
        for images, width in ((1, least), (0, least + 3)):
            batch = torch.ones(images, conv.in_channels, least, width)
            torch.testing.assert_close(accelerated(batch), model(batch), atol=1e-4, rtol=0)


def test_a_way_that_fails_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_openvino(monkeypatch)

    class Wide(torch.nn.Module):
        """Adds an image to one number a channel: the sum is larger than what the convolution gives."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(32, 32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small: torch.Tensor = self.conv(x.mean((2, 3), keepdim=True))
            return small + x

    with torch.inference_mode():
        made = compile_forward(Wide().eval(), WorkerConfig(), CPU, (32, 8, 8), Measurements(tmp_path))
    assert made.name == "off"
    assert "winograd in fp32 fails" in caplog.text


def test_a_wide_image_is_convolved_in_blocks(built: Path) -> None:
    """More tiles in a line than are taken at a time, the last of them not full."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1)).eval()
    batch = torch.randn((1, 3, 30, 483), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(winograd.accelerate(model, built)(batch), model(batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_every_square_convolution_is_taken(kernel: int, stride: int, bf16: bool, built: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 96, kernel, stride=stride, padding=kernel // 2)).eval()
    batch = torch.randn((2, 64, 15, 16), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        accelerated = winograd.accelerate(model, built, bf16)
        assert not any(isinstance(module, torch.nn.Conv2d) for module in accelerated.modules())
        torch.testing.assert_close(accelerated(batch), model(batch), atol=0.05 if bf16 else 1e-4, rtol=0)


@pytest.mark.parametrize("channels", [32, 3])
@pytest.mark.parametrize(
    "batch",
    [torch.ones(1, 2, 8, 8), torch.ones(1, 64, 8, 8), torch.ones(3, 8, 8), torch.ones(1, 3, 8, 8).double()],
    ids=lambda batch: f"{batch.dtype}{list(batch.shape)}",
)
def test_our_layers_refuse_what_they_would_misread(batch: torch.Tensor, channels: int, built: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(channels, 32, 3, padding=1)).eval()
    with torch.inference_mode(), pytest.raises(RuntimeError, match=rf"expected input \[N, {channels}, H, W\]"):
        winograd.accelerate(model, built)(batch)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize(("channels", "kernel", "stride"), [(32, 3, 1), (32, 3, 2), (3, 3, 1), (3, 7, 2)])
def test_our_layers_let_nan_through(channels: int, kernel: int, stride: int, bf16: bool, built: Path) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(channels, 32, kernel, stride=stride, padding=1)
    model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1)).eval()
    with torch.inference_mode():
        output = winograd.accelerate(model, built, bf16)(torch.full((1, channels, 8, 8), float("nan")))
    assert bool(output.isnan().all())


def test_without_a_compiler_the_forward_stays_pytorchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    without_openvino(monkeypatch)
    module = torchvision.models.get_model("resnet18", weights=None).eval()
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
