"""Networks that tests of several rooms run, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torchvision
from smartbatch_worker.forward.compilers import reading, winograd

needs_bf16 = pytest.mark.skipif(not winograd.has_bf16_products(), reason="this CPU has no avx512_bf16")


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


def installed(monkeypatch: pytest.MonkeyPatch, *compilers: str) -> None:
    """Of those that a package brings, only these."""
    monkeypatch.setattr(reading, "not_installed", lambda packages: [] if packages[0] in compilers else list(packages))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """`count` of them for the length of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def lively_resnet18() -> torch.nn.Module:
    torch.manual_seed(0)
    return with_lively_statistics(torchvision.models.resnet18(weights=None))


def lively_small_network() -> torch.nn.Module:
    """A ResNet's first layers and last ones, for tests of what is done with a network and not of what it computes."""
    torch.manual_seed(0)
    return with_lively_statistics(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 7, stride=2, padding=3, bias=False),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(3, 2, 1),
            torch.nn.Conv2d(32, 32, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(32, 10),
        )
    )
