"""Stacker and NamedStacker: exact numbers, in the right places."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow.lengths.padding import Padding
from smartbatch_worker.flow.stack import NamedStacker, Stacker
from smartbatch_worker.kernels import pixels


@pytest.fixture(params=["in C", "by torch"])
def _normaliser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    """With a C compiler, and without."""
    pixels.prepare(built)
    if request.param == "by torch":
        monkeypatch.setattr(pixels, "_library", None)
    else:
        assert pixels._library is not None


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


@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_pixels_may_be_normalised_later_on_a_device(layout: str) -> None:
    mean, std = [0.5, 0.25, 0.0], [0.5, 0.25, 1.0]
    images = list(torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    if layout == "pixels":
        images = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    later = Stacker(mean, std, keeps_pixels=True)
    stacked = later.stack(images)
    assert stacked.dtype == torch.uint8
    assert torch.equal(stacked, torch.stack(images))
    normalise = pixels.DeviceNormaliser(mean, std, torch.device("cpu"))
    expected = Stacker(mean, std).stack(images)
    normalised = normalise(stacked)
    assert torch.allclose(normalised, expected, atol=1e-6)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(normalise(images[0]), expected[0], atol=1e-6)
    mixed = later.stack([images[0], torch.ones(3, 4, 5)])  # one that is no picture: all are float32
    assert torch.allclose(mixed[0], expected[0], atol=1e-6)
    assert torch.equal(mixed[1], torch.ones(3, 4, 5))


def test_stack_reuses_its_buffer_per_shape() -> None:
    stacker = Stacker([0.0], [1.0])
    first = stacker.stack([torch.ones(4)] * 3)
    second = stacker.stack([torch.zeros(4)] * 2)
    assert first.data_ptr() == second.data_ptr()
    for size in range(5, 12):
        stacker.stack([torch.ones(size)])
    assert len(stacker._buffers) <= 4


def test_named_inputs_are_padded_each_with_its_own() -> None:
    inputs = {
        "ids": {"dtype": "int64", "shape": ["L"], "pad": 7},
        "grid": {"dtype": "float64", "shape": [2, "L"], "pad": -1.0, "pad_side": "left"},
        "age": {"dtype": "float32", "shape": []},
    }
    padding = Padding(WorkerConfig.resolve({"inputs": inputs}, {}))
    stacker = NamedStacker(padding, Stacker([0.0], [1.0]))
    items = [
        {"ids": torch.tensor([1]), "grid": torch.ones(2, 1, dtype=torch.float64), "age": torch.tensor(3.0)},
        {"ids": torch.tensor([1, 2]), "grid": torch.zeros(2, 2, dtype=torch.float64), "age": torch.tensor(4.0)},
    ]
    batch = stacker.stack(items, {"L": 3})
    assert batch["ids"].tolist() == [[1, 7, 7], [1, 2, 7]]
    assert batch["grid"].tolist() == [[[-1, -1, 1]] * 2, [[-1, 0, 0]] * 2]
    assert batch["age"].tolist() == [3.0, 4.0]
    assert [tensor.dtype for tensor in batch.values()] == [torch.int64, torch.float64, torch.float32]
    assert stacker.stack(items[1:], {"L": 2})["ids"].tolist() == [[1, 2]]
