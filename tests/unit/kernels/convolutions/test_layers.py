"""Layers of our own: each answers as PyTorch's does, whatever the image's size, and however many threads compute."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torchvision
from smartbatch_worker.forward.compilers import winograd
from smartbatch_worker.kernels.convolutions import compiled, layers, transforms

from tests.unit.networks import needs_bf16, torch_threads, with_lively_statistics


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("num_in", "num_out", "stride"), [(64, 48, 1), (32, 32, 1), (32, 48, 2), (64, 32, 2)])
def test_weights_lie_as_the_product_reads_them(
    built: Path,
    num_in: int,
    num_out: int,
    stride: int,
    memory_format: torch.memory_format,
    bf16: bool,
) -> None:
    library = compiled.build(built)
    conv = torch.nn.Conv2d(num_in, num_out, 3, stride, 1).to(memory_format=memory_format)
    width, g = library.panel_width(), transforms.kernel_numbers(stride)
    basis = torch.einsum("ia,kcab,jb->ijck", g, conv.weight.detach().double(), g)
    points = [[0], [1, 5], [2, 6], [3, 7], [4, 8]] if stride == 2 else [[point] for point in range(6)]
    expected = []
    for rows, columns in itertools.product(points, points):
        numbers = torch.cat([basis[row, column] for row in rows for column in columns])  # [points * C, K]
        for first in range(0, num_out, width):
            panel = torch.zeros(len(numbers), width, dtype=torch.float64)
            panel[:, : min(width, num_out - first)] = numbers[:, first : first + width]
            if bf16:  # two inputs side by side
                panel = torch.stack((panel[::2], panel[1::2]), dim=2)
            expected.append(panel.flatten())
    weight = layers.WinogradConv2d(conv, relu=False, library=library, bf16=bf16).weight
    assert weight.dtype == (torch.bfloat16 if bf16 else torch.float32)
    torch.testing.assert_close(weight, torch.cat(expected).to(weight.dtype))


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
        sizes = list(itertools.product((3,), range(1, 18), range(1, 18)))[:: int(os.environ.get("WINOGRAD_EVERY", "3"))]
        for images, height, width in [*sizes, (9, 45, 43)]:
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


def test_a_wide_image_is_convolved_in_blocks(built: Path) -> None:
    """More tiles in a line than are taken at a time, the last of them not full."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1)).eval()
    batch = torch.randn((1, 3, 30, 483), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(winograd.accelerate(model, built)(batch), model(batch), atol=1e-4, rtol=0)


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
