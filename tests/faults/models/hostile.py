"""y = 2x + 1, except that the first number of an item may ask for trouble.

Each forward leaves one byte in $FORWARDS_FILE.
"""

import os
import time
from pathlib import Path

import torch

RAISES, GIVES_NAN, HANGS, NEVER_FITS, NAMES_CUDA, SLEEPS = 666.0, 667.0, 668.0, 669.0, 670.0, 671.0
FITS = 4
"""Items that fit in memory at once, where an item's second number is CRAMPED."""
CRAMPED = 1000.0


class Hostile(torch.nn.Module):
    """Weights 2 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))
        self.bias = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count_forward()
        asked = x[:, 0]
        if bool((asked == RAISES).any()):
            raise RuntimeError("poison")
        if bool((asked == NAMES_CUDA).any()):
            raise RuntimeError("CUDA error: device-side assert triggered")
        if bool((asked == NEVER_FITS).any()) or (bool((x[:, 1] == CRAMPED).any()) and len(x) > FITS):
            torch.empty(2**50, dtype=torch.uint8)  # a petabyte: the allocator's own error
        if bool((asked == HANGS).any()):
            time.sleep(3600)
        sleeping = x[asked == SLEEPS]
        if len(sleeping):
            time.sleep(float(sleeping[:, 1].max()))
        answer = self.weight * x + self.bias
        answer[asked == GIVES_NAN] = float("nan")
        return answer


def count_forward() -> None:
    """Append, so that several workers may count at once."""
    path = os.environ.get("FORWARDS_FILE")
    if path:
        with Path(path).open("ab") as file:
            file.write(b".")
