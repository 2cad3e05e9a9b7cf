"""detection: what is found in a picture does not depend on the others, and is what torchvision finds in it alone."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.detection import Detector, _SmallMasks, build_detector, detectors
from smartbatch_worker.models.load import ModelLoadError, build_model
from torchvision import models
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tests.detections import assert_found, spread

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
SIZES = ((90, 130), (130, 90), (90, 130), (60, 240))
CLASSES = 4


def build(folder: Path, model: str = SMALL, **keys: object) -> Any:
    return build_model(WorkerConfig.resolve({"model": model, "num_classes": CLASSES, **keys}, {}), folder)


def pictures(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    """float32 [3, H, W] with coloured squares, 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for height, width in sizes:
        picture = torch.rand(3, height, width, generator=generator) / 4
        for _ in range(4):
            top, left = (int(torch.randint(side - 30, (), generator=generator)) for side in (height, width))
            picture[:, top : top + 30, left : left + 30] = torch.rand(3, 1, 1, generator=generator)
        drawn.append(picture)
    return drawn


@cache
def built(name: str) -> Any:
    """torchvision's own module."""
    return models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES).eval()


def plain(name: str, weights: dict[str, torch.Tensor]) -> Any:
    """The same as new."""
    model = copy.deepcopy(built(name))
    model.load_state_dict(weights, assign=True)
    return model


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return spread(build_detector(SMALL, CLASSES))


@pytest.fixture(scope="module")
def folder(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detection")
    save_file(weights, path / "w.safetensors")
    return path


def test_detection_by_name(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """In a list of mixed sizes, in another order, and alone."""
    module = build(folder, weights="w.safetensors")
    assert module.takes_list
    assert module.state_dict().keys() == weights.keys()
    assert not any(parameter.requires_grad for parameter in module.parameters())
    shown = pictures(*SIZES)
    with torch.inference_mode():
        together, reversed_ = module(shown), module(shown[::-1])[::-1]
        for index, picture in enumerate(shown):
            expected = plain(SMALL, weights)([picture])[0]
            assert_found(together[index], expected)
            assert_found(reversed_[index], expected)
        stacked = module(torch.stack([shown[0], shown[2]]))
    assert_found(stacked[1], together[2])
    height, width = SIZES[3]
    assert (together[3]["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()


def test_a_thin_strip_leaves_nothing_behind(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """torchvision works scales out from the first picture it sees, and rounds."""
    (picture,) = pictures((90, 130))
    with torch.inference_mode():
        module = build(folder, weights="w.safetensors")
        module([torch.rand(3, 6, 300)])
        assert_found(module([picture])[0], plain(SMALL, weights)([picture])[0])


def test_pictures_share_a_forward_where_they_are_padded_alike(folder: Path) -> None:
    module = build(folder, weights="w.safetensors")
    seen: list[tuple[int, ...]] = []
    module.model.backbone.register_forward_hook(lambda *call: seen.append(tuple(call[1][0].shape)))
    with torch.inference_mode():
        module(pictures((90, 130), (91, 130), (130, 90)))
    assert sorted(shape[0] for shape in seen) == [1, 2]
    assert sorted(shape[2:] for shape in seen) == [(320, 480), (480, 320)]


def test_a_fixed_size_is_shared_by_all() -> None:
    answers_as_torchvision_does("ssdlite320_mobilenet_v3_large")


def test_masks_are_drawn_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    transform = GeneralizedRCNNTransform(64, 96, [0.0] * 3, [1.0] * 3).eval()
    sizes, shown = [(40, 60), (70, 50)], [(64, 96), (90, 64)]

    def found() -> list[dict[str, torch.Tensor]]:
        generator.manual_seed(0)
        corners = [torch.rand(count, 2, generator=generator) * 30 for count in (3, 0)]
        boxes = [torch.cat([corner, corner + 20], 1) for corner in corners]
        masks = [torch.rand(len(box), 1, 28, 28, generator=generator) for box in boxes]
        return [{"boxes": box, "masks": mask} for box, mask in zip(boxes, masks, strict=True)]

    expected = transform.postprocess(found(), shown, sizes)
    for ours, theirs in zip(_SmallMasks(transform)(found(), shown, sizes), expected, strict=True):
        assert torch.equal(ours["boxes"], theirs["boxes"])
        assert torch.equal(ours["masks"], theirs["masks"] > 0.5)
    assert expected[1]["masks"].shape == (0, 1, 70, 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in detectors() if name != SMALL])
def test_every_one_answers_as_torchvision_does(name: str) -> None:
    answers_as_torchvision_does(name)


def answers_as_torchvision_does(name: str) -> None:
    model = build_detector(name, CLASSES).eval()
    weights = spread(model)
    module, alone = Detector(model), plain(name, weights)
    for each in (model, alone):  # little to do: pictures, and what is looked at in them
        if each.transform.fixed_size is None:
            each.transform.min_size, each.transform.max_size = (64,), 96
        if hasattr(each, "rpn"):
            each.rpn._post_nms_top_n = {"training": 0, "testing": 20}
            each.roi_heads.detections_per_img = 5
    shown = pictures((64, 96), (96, 64), (64, 90))
    with torch.inference_mode():
        for found, picture in zip(module(shown), shown, strict=True):
            assert_found(found, alone([picture])[0])
    if name.startswith("ssd"):
        assert len({module._padded_size(picture) for picture in shown}) == 1


def test_published_weights_add_nothing_to_the_variance() -> None:
    with torch.device("meta"):
        found = {
            pretrained: {
                layer.eps
                for layer in build_detector("fasterrcnn_resnet50_fpn", None, pretrained=pretrained).modules()
                if isinstance(layer, torch.nn.BatchNorm2d)
            }
            for pretrained in (True, False)
        }
    assert found == {True: {0.0}, False: {1e-5}}


def test_what_is_wrong_is_named(folder: Path) -> None:
    (folder / "short.safetensors").write_bytes((folder / "w.safetensors").read_bytes()[:-8])
    torch.save({"linear.weight": torch.ones(2)}, folder / "other.pth")
    for keys, said in (
        ({"weights": "short.safetensors"}, "corrupt"),
        ({"weights": "other.pth"}, "does not fit"),
        ({"weights": "w.safetensors", "num_classes": 9}, r"has shape \[4, 1024\] in the file and \[9, 1024\]"),
        ({}, "has no weights"),
        ({"weights_source": "random", "precision": "bf16"}, "runs in fp32 .*; got precision: bf16"),
        ({"weights_source": "random", "compile": "inductor"}, "compile: auto or off.*compile: inductor"),
        ({"model": "fasterrcnn_resnet"}, "is no torchvision detector; near it are fasterrcnn_resnet50_fpn"),
    ):
        with pytest.raises(ModelLoadError, match=said):
            build(folder, **keys)
