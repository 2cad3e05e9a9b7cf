"""Detectors whose boxes exist without training, and what it means that two answers are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

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
