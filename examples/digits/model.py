"""The digits network: the one torch.nn.Module of this file is what SmartBatch serves."""

from __future__ import annotations

import torch
from torch import nn


class DigitsCNN(nn.Module):
    """Two convolutions and a linear layer for handwritten digits.

    Takes [N, 1, 8, 8] with ink from 0 to 16, as scikit-learn has it, and gives [N, 10] logits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 4 * 4, num_classes))

    def forward(self, ink: torch.Tensor) -> torch.Tensor:
        """[N, 1, 8, 8] ink to [N, num_classes] logits."""
        logits: torch.Tensor = self.classifier(self.features(ink / 16))
        return logits
