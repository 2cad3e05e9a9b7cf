"""Train the detector in seconds: `python examples/detection/train.py`; it writes build/shapes.pth, the state dict."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from model import NUM_SHAPES, STRIDE, ShapeFinder, centres  # type: ignore[import-not-found]  # beside this script
from pictures import Drawn, draw  # type: ignore[import-not-found]
from torch.nn import functional
from torchvision.transforms.v2.functional import pil_to_tensor

HERE = Path(__file__).resolve().parent
SIDE = 160  # of the pictures it is trained on; it is shown any
BATCH = 4


def main() -> None:
    """Draw, train, write the weights."""
    parser = argparse.ArgumentParser(description="Train a detector of drawn shapes.")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder to write to")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    generator = np.random.default_rng(0)

    model = ShapeFinder().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=arguments.steps)
    for step in range(arguments.steps):
        drawn = [draw(generator, (SIDE, SIDE)) for _ in range(BATCH)]
        pictures = torch.stack([pil_to_tensor(each.image) for each in drawn]).float() / 255
        wanted, distances = (torch.stack(each) for each in zip(*map(cells_of, drawn), strict=True))
        logits, sides = model.cells(pictures)
        is_shape = wanted.any(1)  # [N, h, w]
        found = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / is_shape.sum()
        placed = (sides.log() - distances.log()).abs().movedim(1, -1)[is_shape].mean()
        loss = found + placed
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {arguments.steps}: shapes {found:.4f}, sides {placed:.4f}", flush=True)
    arguments.build.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), arguments.build / "shapes.pth")
    print(f"wrote {arguments.build / 'shapes.pth'}")


def cells_of(drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
    """What each cell is to say: 1 for the shape in whose middle it lies [3, h, w], and that shape's sides [4, h, w]."""
    x, y = centres(SIDE // STRIDE, SIDE // STRIDE)
    wanted = torch.zeros(NUM_SHAPES, *x.shape)
    distances = torch.ones(4, *x.shape)
    for (left, top, right, bottom), label in zip(drawn.boxes.tolist(), drawn.labels.tolist(), strict=True):
        inset = 0.3 * (right - left)
        is_in = (x > left + inset) & (x < right - inset) & (y > top + inset) & (y < bottom - inset)
        wanted[label - 1, is_in] = 1
        distances[:, is_in] = torch.stack([x - left, y - top, right - x, bottom - y])[:, is_in]
    return wanted, distances


if __name__ == "__main__":
    main()
