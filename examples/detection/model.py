"""The network that finds shapes: the one torch.nn.Module of this file is what SmartBatch serves.

Each cell of 8 x 8 pixels says which shape it lies in, and how far away that shape's four sides are.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import batched_nms

STRIDE = 8
MIN_SCORE = 0.5
MAX_OVERLAP = 0.3
NUM_SHAPES = 3


class ShapeFinder(nn.Module):
    """Takes pictures of one size, [N, 3, H, W] from 0 to 1; gives N entries: boxes [K, 4], labels and scores [K]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            _convolution(3, 16, 2),
            _convolution(16, 24, 2),
            _convolution(24, 32, 2),
            *(_convolution(32, 32, 1, dilation) for dilation in (1, 2, 4, 2, 1)),
        )
        self.scores = nn.Conv2d(32, NUM_SHAPES, 1)
        self.sides = nn.Conv2d(32, 4, 1)

    def cells(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3, H, W] to logits [N, 3, h, w], and the distances of a shape's sides from a cell's centre, in pixels."""
        features = self.backbone(pictures - 0.5)
        return self.scores(features), self.sides(features).clamp(max=8).exp() * STRIDE

    def forward(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """One entry a picture, its boxes in the picture's own pixels, best first."""
        return [_boxes(*cells) for cells in zip(*self.cells(pictures), strict=True)]


def _boxes(logits: torch.Tensor, sides: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of one picture's cells, what is likely and says what no likelier one does."""
    scores, kinds = logits.sigmoid().max(0)
    is_likely = scores >= MIN_SCORE
    x, y = (each[is_likely] for each in centres(*scores.shape))
    left, top, right, bottom = sides[:, is_likely]
    boxes = torch.stack([x - left, y - top, x + right, y + bottom], 1)
    scores, labels = scores[is_likely], kinds[is_likely] + 1
    kept = batched_nms(boxes, scores, labels, MAX_OVERLAP)
    return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}


def centres(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the cells, in pixels: x and y, [h, w] each."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return x * STRIDE + STRIDE / 2, y * STRIDE + STRIDE / 2


def _convolution(num_in: int, num_out: int, stride: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(inplace=True),
    )
