"""Row mixing: what is told from rounding, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from smartbatch.archive.rows import check_rows_do_not_mix
from smartbatch.archive.settings import CheckError

BATCH = torch.rand((3, 6, 4), generator=torch.Generator().manual_seed(0))


class Model(torch.nn.Module):
    """A function, and perhaps a weight of some precision."""

    def __init__(self, function: Callable[[torch.Tensor], Any], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=dtype), requires_grad=False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(0),
        lambda x: x - x.mean(0),
        lambda x: torch.nn.functional.batch_norm(x, None, None, training=True),
        lambda x: x / x.max(),
        lambda x: {"a": x, "b": x.cumsum(0)},
        lambda x: (x, x.sort(0).values),
        lambda x: x.argsort(0),
        lambda x: x * float("nan") if len(x) > 1 else x,
        lambda x: x.flip(0),
        lambda x: x[:, : len(x)],
        lambda x: {"a": None, "b": torch.complex(x, x / x.max())},
        lambda x: [{"boxes": row[row[:, 0] > x[:, :, 0].mean()]} for row in x],
        lambda x: [(row - x.mean()).numpy() for row in x],
    ],
)
def test_a_model_that_mixes_rows_is_refused(function: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(CheckError, match=r"mixes the rows of a batch: among 3 items, one is answered .* alone"):
        check_rows_do_not_mix(Model(function), BATCH)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(1),
        lambda x: (x, x.argmax(-1)),
        lambda x: {"a": x * float("nan"), "b": x / 0},
        lambda x: [{"boxes": row, "name": "box", "score": 0.5} for row in x],
        lambda x: [{"boxes": row[row[:, 0] > 0.5], "masks": None} for row in x],
        lambda x: {"logits": x, "past": None, "spectrum": torch.fft.fft(x)},
        lambda x: x.add_(1),
        lambda x: x[:, :0],
        lambda x: x * 0,
        lambda x: x * (1 + 1e-5 * len(x)),  # as rounding may be
    ],
)
def test_a_model_that_does_not_is_let_through(function: Callable[[torch.Tensor], Any]) -> None:
    assert check_rows_do_not_mix(Model(function), BATCH) == []


def test_both_numbers_are_said() -> None:
    with pytest.raises(CheckError) as caught:
        check_rows_do_not_mix(Model(lambda x: x * 0 + len(x)), BATCH)
    assert "answered 3 instead of 1 alone, which is 2 of the largest value (allowed: 0.001)" in str(caught.value)
    assert "--set micro_batch=1" in str(caught.value)


def test_half_precision_rounds_more() -> None:
    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 5e-3 * len(x))

    assert check_rows_do_not_mix(Model(rounded, torch.bfloat16), BATCH) == []
    with pytest.raises(CheckError):
        check_rows_do_not_mix(Model(rounded), BATCH)


def test_answers_that_change_each_time_cannot_be_compared() -> None:
    random = Model(torch.rand_like)
    assert check_rows_do_not_mix(random, BATCH) == [
        "the model answers the same item otherwise each time: not checked that rows do not mix"
    ]
