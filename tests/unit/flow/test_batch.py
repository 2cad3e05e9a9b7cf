"""plan and Stacker: every item once, right order, exact numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_worker.flow.batch import Item, Stacker, plan
from smartbatch_worker.kernels import pixels


@pytest.fixture(params=["in C", "by torch"])
def _normaliser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    """With a C compiler, and without."""
    pixels.prepare(built)
    if request.param == "by torch":
        monkeypatch.setattr(pixels, "_library", None)
    else:
        assert pixels._library is not None


def items_of(sizes: list[int], deadlines: list[float] | None = None) -> list[Item]:
    deadlines = deadlines or [math.inf] * len(sizes)
    return [Item(torch.zeros(size), row, 0, due) for row, (size, due) in enumerate(zip(sizes, deadlines, strict=True))]


@given(st.lists(st.integers(1, 4), max_size=40), st.integers(1, 9))
def test_every_item_is_planned_once_in_groups_of_one_shape(sizes: list[int], most: int) -> None:
    items = items_of(sizes)
    micro_batches = plan(items, lambda shape: most)
    planned = [item.row for micro_batch in micro_batches for item in micro_batch.items]
    assert sorted(planned) == list(range(len(sizes)))
    for micro_batch in micro_batches:
        assert 1 <= len(micro_batch.items) <= most
        assert {tuple(item.tensor.shape) for item in micro_batch.items} == {micro_batch.shape}


def test_cuts_are_even() -> None:
    assert [len(m.items) for m in plan(items_of([1] * 9), lambda shape: 8)] == [5, 4]


def test_earliest_deadline_first() -> None:
    planned = plan(items_of([1, 1, 2, 1], [30.0, math.inf, 20.0, 10.0]), lambda shape: 2)
    assert [[item.row for item in m.items] for m in planned] == [[3, 0], [2], [1]]


@pytest.mark.usefixtures("_normaliser")
def test_stack_copies_floats_and_normalises_uint8() -> None:
    stacker = Stacker([0.5, 0.25, 0.0], [0.5, 0.25, 1.0])
    image = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    floats = torch.rand(3, 4, 5)
    stacked = stacker.stack([image, floats])
    mean, std = torch.tensor([0.5, 0.25, 0.0]).view(3, 1, 1), torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    assert torch.allclose(stacked[0], (image / 255 - mean) / std, atol=1e-6)
    assert torch.equal(stacked[1], floats)
    assert stacked.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("_normaliser")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (33, 17)])
def test_uint8_images_of_any_layout_are_normalised(channels: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    wide = torch.randint(0, 256, (channels, size[0], 2 * size[1]), dtype=torch.uint8, generator=generator)
    planes = wide[..., : size[1]].contiguous()
    mean, std = torch.rand(channels, generator=generator), torch.rand(channels, generator=generator) + 0.1
    layouts = {
        "planes": planes,
        "pixels": planes.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "a part of wider planes": wide[..., : size[1]],
        "one plane repeated": planes[:1].expand(channels, *size),
    }
    stacker = Stacker(mean.tolist(), std.tolist())
    for name, image in layouts.items():
        stacked = stacker.stack([image, image])
        expected = (image / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        assert torch.allclose(stacked, torch.stack([expected] * 2), atol=1e-5), name


def test_stack_reuses_its_buffer_per_shape() -> None:
    stacker = Stacker([0.0], [1.0])
    first = stacker.stack([torch.ones(4)] * 3)
    second = stacker.stack([torch.zeros(4)] * 2)
    assert first.data_ptr() == second.data_ptr()
    for size in range(5, 12):
        stacker.stack([torch.ones(size)])
    assert len(stacker._buffers) <= 4
