"""Detection, segmentation and timm through the whole handler: pictures of mixed sizes at once, each as if alone.

Every answer is compared with what the library itself answers for that picture, decoded by Pillow.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from smartbatch.archive.published.timm import choose_timm_weights
from smartbatch.archive.published.torchvision import choose_weights
from smartbatch.archive.settings import ArchiveSettings
from smartbatch_worker.models.detection import build_detector
from timm.data import create_transform, resolve_data_config
from torchvision import models
from torchvision.transforms.v2.functional import normalize

from tests.contract.in_process import Worker, request
from tests.detections import assert_found, spread

SIZES = ((90, 130), (130, 90), (128, 128), (90, 130), (70, 200), (128, 128))
DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"
SEGMENTER = "lraspp_mobilenet_v3_large"
NUM_TIMM_PICTURES = 32


def picture(seed: int, height: int, width: int) -> bytes:
    """A JPEG, or for every third a PNG, of smooth colours with squares in them."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(3):
        side = min(height, width) // 3
        top, left = generator.integers(0, height - side), generator.integers(0, width - side)
        pixels[top : top + side, left : left + side] = generator.integers(0, 256, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG" if seed % 3 == 0 else "JPEG")
    return stream.getvalue()


PICTURES = [picture(seed, *size) for seed, size in enumerate(SIZES)]


def decoded(body: bytes) -> torch.Tensor:
    """float32 [3, H, W], 0 to 1, as Pillow reads it."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(body)))).permute(2, 0, 1).float() / 255


def worker(folder: Path, model: str, keys: dict[str, Any], **more: Any) -> Worker:
    return Worker(folder, {"model": model, "weights": "w.safetensors", **keys, **more})


def results(replies: Any) -> list[Any]:
    assert [reply.status for reply in replies] == [200] * len(replies), [reply.body[:300] for reply in replies]
    return [reply.json["result"] for reply in replies]


@pytest.fixture(scope="module")
def detecting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Worker, Any]:
    """A worker, and torchvision's module with the same weights: random, with scores that lie apart."""
    folder = tmp_path_factory.mktemp("detection")
    model = build_detector(DETECTOR, 4).eval()
    save_file(spread(model), folder / "w.safetensors")
    keys = choose_weights(ArchiveSettings(random_weights=True), DETECTOR, print).image_keys
    return worker(folder, DETECTOR, keys, num_classes=4, output="raw"), model


def test_boxes_are_each_pictures_own(detecting: tuple[Worker, Any]) -> None:
    worker, model = detecting
    answers = results(worker.answer(*[request(body, "image/jpeg") for body in PICTURES]))
    with torch.inference_mode():
        for answer, body in zip(answers, PICTURES, strict=True):
            assert_found(answer, model([decoded(body)])[0])


def test_pixels_are_seen_as_pictures_are(detecting: tuple[Worker, Any]) -> None:
    """uint8 [3, H, W] and [H, W, 3], and numbers from 0 to 1; several in one request."""
    worker, model = detecting
    pixels = (decoded(PICTURES[0]) * 255).to(torch.uint8).numpy()
    bodies = [pixels, pixels.transpose(1, 2, 0), decoded(PICTURES[0]).numpy(), np.stack([pixels, pixels])]
    one, other, third, both = results(worker.answer(*[request(npy(array), "application/x-npy") for array in bodies]))
    with torch.inference_mode():
        expected = model([decoded(PICTURES[0])])[0]
    for answer in (one, other, third, *both):
        assert_found(answer, expected)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_a_picture_that_fails_fails_alone(detecting: tuple[Worker, Any]) -> None:
    worker, model = detecting
    huge = io.BytesIO()
    Image.new("L", (4000, 3500)).save(huge, "PNG")
    bad = [request(PICTURES[1][:-300], "image/jpeg"), request(huge.getvalue(), "image/png")]
    first, cut, large, nothing, last = worker.answer(
        request(PICTURES[0], "image/png"), *bad, request(b"", "image/jpeg"), request(PICTURES[2], "image/jpeg")
    )
    assert (cut.error, large.error, nothing.error) == ((400, "malformed"), (413, "too_large"), (400, "malformed"))
    assert "max_pixels" in large.json["error"]["message"]
    with torch.inference_mode():
        for reply, body in ((first, PICTURES[0]), (last, PICTURES[2])):
            assert_found(reply.json["result"], model([decoded(body)])[0])


def test_masks_are_of_the_pictures_own_size(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = models.get_model(SEGMENTER, weights=None, weights_backbone=None, num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    keys = choose_weights(ArchiveSettings(random_weights=True), SEGMENTER, print).image_keys
    segmenting = worker(tmp_path, SEGMENTER, keys, num_classes=3, output="raw")
    answers = results(segmenting.answer(*[request(body, "image/jpeg") for body in PICTURES]))
    with torch.inference_mode():
        for answer, body in zip(answers, PICTURES, strict=True):
            shown = normalize(decoded(body), keys["image_mean"], keys["image_std"])
            expected = model(shown[None])["out"][0]
            scale = float(expected.abs().max())
            torch.testing.assert_close(torch.tensor(answer["out"]), expected, rtol=0, atol=1e-4 * scale)


# tests/e2e/models/test_pictures.py has a transformer of timm's as well.
@pytest.mark.parametrize("name", [pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow), "convnext_atto"])
def test_timm_answers_as_timm_does(tmp_path: Path, name: str) -> None:
    """Seeded pictures of mixed sizes have the class first that timm's own transform and model give them.

    tests/e2e/models/test_pictures.py has a thousand, through HTTP.
    """
    torch.manual_seed(3)
    model: Any = timm.create_model(name).eval()
    transform = create_transform(**resolve_data_config(model=model))
    generator = np.random.default_rng(7)
    bodies = [picture(seed, *map(int, generator.integers(120, 420, 2))) for seed in range(NUM_TIMM_PICTURES)]
    shown = [transform(Image.open(io.BytesIO(body))) for body in bodies]
    with torch.inference_mode():
        # Random weights know few classes: each is brought to the same mean, so that pictures differ.
        some = torch.cat([model(torch.stack(shown[at : at + 8])) for at in range(0, NUM_TIMM_PICTURES, 8)])
        model.get_classifier().bias -= some.mean(0)
        expected = [int(model(one[None]).argmax()) for one in shown]
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    keys = choose_timm_weights(ArchiveSettings(timm=name, random_weights=True), name, tmp_path, print).image_keys
    serving = worker(tmp_path, f"timm/{name}", keys, micro_batch=4)
    found = []
    for at in range(0, NUM_TIMM_PICTURES, 8):
        batch = [request(body, "image/jpeg") for body in bodies[at : at + 8]]
        found += [answer[0]["index"] for answer in results(serving.answer(*batch))]
    assert len(set(expected)) > NUM_TIMM_PICTURES // 4, "they tell pictures apart"
    assert found == expected
