"""Which layers of a model are swapped, together with what follows them."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
import torch
from smartbatch_worker.forward.compilers import winograd

from tests.unit.networks import needs_bf16, torch_threads


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
