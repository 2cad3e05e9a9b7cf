"""Models whose answer tells what they were shown; the first number of an item may ask for trouble."""

import torch

RAISES, GIVES_NAN, NAMES_CUDA = 666.0, 667.0, 670.0


class Seen(torch.nn.Module):
    """The mean of a picture, of its upper and of its lower half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[2] // 2
        return torch.stack([part.mean((1, 2, 3)) for part in (x, x[:, :, :half], x[:, :, half:])], 1)


class Line(torch.nn.Module):
    """y = 2x + 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 0] == RAISES).any()):
            raise RuntimeError("poison")
        if bool((x[:, 0] == NAMES_CUDA).any()):
            raise RuntimeError("CUDA error: device-side assert triggered")
        answer = 2 * x + 1
        answer[x[:, 0] == GIVES_NAN] = float("nan")
        return answer


class Parts(torch.nn.Module):
    """A list of parts of every row's answer; read as an entry a row, it would hand each row those of others."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x * 2, x + 1]


class Uneven(torch.nn.Module):
    """As many whole numbers as an item's first number says: an entry an item, as a detector gives them."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.full((int(row[0]),), int(row[1])) for row in x]
