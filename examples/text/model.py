"""The network that tells whose documentation a sentence is from: its one torch.nn.Module is what SmartBatch serves."""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY = 6000
"""Tokens that the tokenizer may have; 0 is padding."""


class Reader(nn.Module):
    """The mean of a sentence's token vectors, and a linear layer.

    Takes token numbers [N, L] and 1 where they are no padding [N, L], both int64, and gives [N, num_classes] logits.
    """

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.vectors = nn.Embedding(VOCABULARY, 64, padding_idx=0)
        self.classifier = nn.Sequential(nn.Dropout(0.3), nn.Linear(64, num_classes))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[N, L] each to [N, num_classes] logits."""
        mask = attention_mask.unsqueeze(-1).float()
        mean = (self.vectors(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        logits: torch.Tensor = self.classifier(mean)
        return logits
