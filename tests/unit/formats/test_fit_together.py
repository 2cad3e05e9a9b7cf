"""Pictures brought to size together are those brought to size one by one."""

from __future__ import annotations

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.formats.images import fit, fit_together

fit.prepare()  # sets a variable of the environment, which a test may not

SIZES = [(375, 500), (500, 375), (256, 256), (224, 224), (100, 90), (1200, 801), (30, 400), (227, 301), (640, 480)]


def pictures() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in SIZES]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"image_resize": 232},
        {"image_resize": [240, 320], "image_crop": [224, 300]},
        {"image_resize": 224, "image_fit": "squash"},
        {"image_resize": 224, "image_fit": "letterbox"},
        {"image_resize": None},
        {"image_crop": None, "image_resize": [96, 128], "image_fit": "squash"},
        {"image_interpolation": "bicubic"},
    ],
    ids=str,
)
def test_together_is_as_one_by_one(keys: dict[str, object]) -> None:
    config = WorkerConfig.resolve(keys, {})
    images = pictures()
    for each, together in zip(images, fit_together.fit_all(images, config), strict=True):
        alone = fit.fit(each, config)
        assert together.dtype == torch.uint8
        assert together.shape == alone.shape
        assert (together.int() - alone.int()).abs().max() <= 1  # the one rounds once, the other after each axis


def test_a_picture_is_not_padded_to_a_much_larger_one() -> None:
    images = [torch.empty((3, *size), dtype=torch.uint8) for size in [(3000, 4000), (300, 400), (310, 390)]]
    assert list(fit_together._alike(range(3), images)) == [[0], [2, 1]]
