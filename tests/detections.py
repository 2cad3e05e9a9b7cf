"""Detectors whose boxes exist, untrained or trained for a minute, and what it means that two answers are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

APART_PX = 0.05
APART_SCORE = 1e-4
SHARE_ALIKE = 0.97
"""Of a hundred boxes found by random weights, two may be as likely as each other: rounding decides which goes."""


def spread(model: Any) -> dict[str, torch.Tensor]:
    """Give a detector of torchvision random weights whose scores lie apart; returns its state dict."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("cls" in name or "classification" in name) and parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


Draw = Callable[[np.random.Generator, tuple[int, int]], Any]
"""Makes an image of a width and height, boxes [K, 4] and labels [K]."""


def train(model: Any, draw: Draw, num_steps: int) -> None:
    """Train a detector of torchvision, with random weights, on what is drawn; in place, and in eval mode afterwards.

    Args:
        model: on the CPU.
        draw: of a generator, one picture.
        num_steps: of four pictures each.
    """
    generator = np.random.default_rng(0)

    def losses() -> torch.Tensor:
        sides = generator.integers(180, 420, 4)  # squares: what is padded costs as much as what is not
        drawn = [draw(generator, (int(side), int(side))) for side in sides]
        pictures = [pil_to_tensor(each.image).float() / 255 for each in drawn]
        wanted = [{"boxes": torch.from_numpy(e.boxes), "labels": torch.from_numpy(e.labels)} for e in drawn]
        total: torch.Tensor = sum(model(pictures, wanted).values())
        return total

    model.train()
    if hasattr(model, "roi_heads"):  # most of a step would be the dense layers of 512 boxes a picture
        model.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=num_steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(num_steps):
            optimizer.zero_grad()
            losses().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        # So few steps leave running means and variances far behind the weights: they are taken anew.
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None
        with torch.no_grad():
            for _ in range(8):
                losses()
    model.eval()


def assert_found(answer: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> None:
    """The same boxes, with the same labels and scores, in an order that differs between equals alone."""
    found = {name: torch.as_tensor(value) for name, value in answer.items() if name in expected}
    assert found.keys() == expected.keys()
    count = len(expected["boxes"])
    assert count > 0
    assert abs(len(found["boxes"]) - count) <= (1 - SHARE_ALIKE) * count
    torch.testing.assert_close(
        found["scores"].sort().values[-5:], expected["scores"].sort().values[-5:], rtol=0, atol=APART_SCORE
    )
    apart = (found["boxes"][:, None] - expected["boxes"][None]).abs().amax(-1)  # [found, expected]
    is_other = found["labels"][:, None] != expected["labels"][None]
    is_other |= (found["scores"][:, None] - expected["scores"][None]).abs() > APART_SCORE
    nearest, which = apart.masked_fill(is_other, float("inf")).min(0)
    alike = nearest <= APART_PX
    assert float(alike.float().mean()) >= SHARE_ALIKE, f"{int((~alike).sum())} of {count} boxes were not found"
    for name in expected.keys() - {"boxes", "labels", "scores"}:
        ours, theirs = found[name][which[alike]], expected[name][alike]
        if name == "masks":
            assert ours.dtype == torch.bool
            assert float((ours == (theirs > 0.5)).float().mean()) > 0.9999
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)
