"""fit: which pixels of a picture the model is shown, for every way of fitting it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.formats.images.fit import fit
from torchvision.transforms.v2 import functional as transforms


def config(**keys: Any) -> WorkerConfig:
    return WorkerConfig.resolve(keys, {})


def picture(height: int, width: int) -> torch.Tensor:
    """uint8 [3, H, W]: red tells the row, green the column; channels last in memory, as decoded pictures are."""
    rows, columns = np.indices((height, width)) % 256
    pixels = np.stack([rows, columns, np.full_like(rows, 7)], -1).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


OWN_SIZE = config(image_resize="none", image_crop="none")


@pytest.mark.parametrize("size", [(1, 1), (31, 50), (300, 7)])
def test_in_its_own_size_every_pixel_is_shown(size: tuple[int, int]) -> None:
    assert torch.equal(fit(picture(*size), OWN_SIZE), picture(*size))
    stream = io.BytesIO()
    Image.fromarray(picture(*size).permute(1, 2, 0).numpy()).save(stream, "PNG")
    (item,) = decode(stream.getvalue(), "", OWN_SIZE).items
    assert torch.equal(item, picture(*size))


def test_the_centre_is_cut_as_torchvision_cuts_it() -> None:
    for size in ((40, 41), (41, 40), (64, 33)):
        shown = fit(picture(*size), config(image_resize="none", image_crop=[20, 17]))
        assert torch.equal(shown, transforms.center_crop(picture(*size), [20, 17]))
        assert shown.untyped_storage().nbytes() == 3 * 20 * 17, "the rest of the picture is let go"


def test_what_is_too_small_lies_on_the_background() -> None:
    shown = fit(picture(3, 30), config(image_resize="none", image_crop=[6, 10], image_background=[9, 8, 200]))
    assert torch.equal(shown[:, 1:4], picture(3, 30)[:, :, 10:20])
    background = torch.tensor([9, 8, 200], dtype=torch.uint8)[:, None, None]
    assert (shown[:, :1] == background).all()
    assert (shown[:, 4:] == background).all()


def test_a_letterbox_holds_the_whole_picture() -> None:
    keys = {"image_fit": "letterbox", "image_resize": 20, "image_crop": 20, "image_background": "black"}
    wide, tall = fit(picture(10, 40), config(**keys)), fit(picture(40, 10), config(**keys))
    assert wide.shape == tall.shape == (3, 20, 20)
    assert torch.equal(wide[:, 7:12], transforms.resize(picture(10, 40), [5, 20], antialias=True))
    assert torch.equal(tall[:, :, 7:12], transforms.resize(picture(40, 10), [20, 5], antialias=True))
    assert int(wide[:, :7].max()) == int(wide[:, 12:].max()) == 0
    assert torch.equal(fit(picture(10, 10), config(**keys)), transforms.resize(picture(10, 10), [20, 20]))
    assert fit(picture(10, 40), config(image_fit="letterbox", image_resize=20, image_crop="none")).shape == (3, 5, 20)
    larger = fit(picture(10, 40), config(**{**keys, "image_crop": [30, 40]}))
    assert torch.equal(larger[:, 12:17, 10:30], wide[:, 7:12])


def test_the_background_of_a_grey_model_is_its_brightness() -> None:
    keys = {"input_shape": [1, None, None], "image_mean": [0.5], "image_std": [0.5], "image_background": [200, 100, 50]}
    shown = fit(torch.zeros(1, 2, 2, dtype=torch.uint8), config(image_resize="none", image_crop=4, **keys))
    assert int(shown[0, 0, 0]) == np.asarray(Image.new("RGB", (1, 1), (200, 100, 50)).convert("L")).item()
    assert int(shown[0, 1:3, 1:3].max()) == 0


def test_squashed_pictures_fill_the_square() -> None:
    shown = fit(picture(10, 40), config(image_fit="squash", image_resize=16, image_crop="none"))
    assert torch.equal(shown, transforms.resize(picture(10, 40), [16, 16], antialias=True))
    shown = fit(picture(10, 40), config(image_fit="squash", image_resize=[16, 24], image_crop=[10, 12]))
    assert torch.equal(shown, transforms.center_crop(transforms.resize(picture(10, 40), [16, 24]), [10, 12]))


def test_rectangles_are_covered() -> None:
    for size in ((50, 50), (20, 90), (90, 20)):
        shown = fit(picture(*size), config(image_resize=[16, 32], image_crop=[16, 32]))
        assert shown.shape == (3, 16, 32)
        ratio = min(size[0] / 16, size[1] / 32)
        covering = [round(side / ratio) for side in size]
        assert torch.equal(shown, transforms.center_crop(transforms.resize(picture(*size), covering), [16, 32]))


def test_strips_keep_a_pixel() -> None:
    assert fit(picture(1, 50), config(image_fit="letterbox", image_resize=20, image_crop=20)).shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ({}, (224, 224)),
        ({"image_crop": [10, 20]}, (10, 20)),
        ({"image_crop": "none"}, None),
        ({"image_crop": None, "image_resize": None}, None),
        ({"image_fit": "squash", "image_resize": [8, 9], "image_crop": "none"}, (8, 9)),
        ({"image_fit": "letterbox", "image_resize": 9, "image_crop": None}, None),
    ],
)
def test_the_size_shown_is_known_beforehand(keys: dict[str, Any], size: tuple[int, int] | None) -> None:
    assert config(**keys).image_size == size
    if size is not None:
        assert tuple(fit(picture(40, 60), config(**keys)).shape[1:]) == size


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"image_fit": "stretch"}, "image_fit must be one of crop, squash, letterbox; got 'stretch'"),
        ({"image_crop": 300}, "image_crop must not exceed image_resize; got 300 > 256"),
        ({"image_crop": [200, 300]}, r"image_crop must not exceed image_resize; got \(200, 300\) > 256"),
        ({"image_resize": 0}, "image_resize must be a number of at least 1, two of them .* or none; got 0"),
        ({"image_resize": [1, 2, 3]}, r"bad value for image_resize: \[1, 2, 3\]"),
        ({"image_resize": "small"}, "bad value for image_resize: 'small'"),
        ({"image_resize": True}, "bad value for image_resize: True"),
        ({"image_fit": "squash", "image_resize": "none"}, "image_fit: squash needs image_resize"),
    ],
)
def test_sizes_that_make_no_picture_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**keys)


def test_sizes_come_from_the_environment_too() -> None:
    env = {"SMARTBATCH_IMAGE_RESIZE": "288,512", "SMARTBATCH_IMAGE_CROP": "none"}
    resolved = WorkerConfig.resolve({}, env)
    assert (resolved.image_resize, resolved.image_crop) == ((288, 512), None)
    assert resolved.as_dict()["image_resize"] == [288, 512]
    assert WorkerConfig.resolve(resolved.as_dict(), {}) == resolved
