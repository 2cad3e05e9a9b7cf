"""Pictures over HTTP: timm's classifiers as timm prepares and answers them, torchvision's masks as files.

timm's smallest of either kind, and behind `slow` larger ones and a thousand pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import IMAGENET_MEAN, IMAGENET_STD
from smartbatch_worker.models.load import build_model
from timm.data import create_transform, resolve_data_config
from torchvision.transforms.v2.functional import normalize

from tests.e2e.models.brought_along import SEGMENTER
from tests.e2e.models.model_server import ModelServer, results, share_batches

NUM_PICTURES = 16


def pictures(low: int, high: int, count: int = NUM_PICTURES) -> list[tuple[Image.Image, bytes]]:
    """Smooth colours of sizes between these, each as it is and as PNG."""
    generator = np.random.default_rng(5)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        size = (int(generator.integers(low, high)), int(generator.integers(low, high)))
        image = coarse.resize(size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "PNG", compress_level=1)
        made.append((image, stream.getvalue()))
    return made


def made(name: str, count: int) -> tuple[Any, torch.Tensor, list[bytes]]:
    """A model of timm's; its scores [count, K] of pictures as timm's own transform shows them; their files."""
    torch.manual_seed(3)
    model: Any = timm.create_model(name).eval()
    transform = create_transform(**resolve_data_config(model=model))
    sent = pictures(120, 300, count)
    with torch.inference_mode():
        scores = torch.cat([model(transform(image)[None]) for image, _ in sent])
        # Random weights know few classes: each is brought to the same mean, so that pictures differ.
        model.get_classifier().bias -= scores.mean(0)
        scores -= scores.mean(0)
    assert len(set(scores.argmax(1).tolist())) > min(count, 64) // 4, "they tell pictures apart"
    return model, scores, [body for _, body in sent]


@contextmanager
def served(models: ModelServer, folder: Path, name: str, model: Any) -> Iterator[None]:
    """Of timm's models the one of that name, with this one's weights, for the length of the block."""
    torch.save(model.state_dict(), folder / "weights.pth")
    models.archive(name, timm=name, model_path=folder / "weights.pth", overrides={"micro_batch": "4"})
    with models.serving(name, batch_size=NUM_PICTURES):
        yield


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_timms_models_answer_as_timm_does(models: ModelServer, tmp_path: Path, name: str) -> None:
    model, scores, bodies = made(name, NUM_PICTURES)
    with served(models, tmp_path, name, model):
        replies = models.at_once(name, [{"data": body} for body in bodies])
        raw = models.at_once(name, [{"data": body, "headers": {"X-SmartBatch-Output": "raw"}} for body in bodies])
    assert share_batches(replies)
    assert [answer[0]["index"] for answer in results(replies)] == scores.argmax(1).tolist()
    # Pixels are within two of 255 levels of timm's own.
    torch.testing.assert_close(torch.tensor(results(raw)), scores, rtol=0, atol=0.05 * float(scores.abs().max()))


@pytest.mark.slow  # minutes
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_of_a_thousand_pictures_nearly_all_are_of_timms_class(models: ModelServer, tmp_path: Path, name: str) -> None:
    """Random weights leave some pictures with two classes as likely as each other."""
    model, scores, bodies = made(name, 1000)
    found = []
    with served(models, tmp_path, name, model):
        for at in range(0, len(bodies), NUM_PICTURES):
            replies = models.at_once(name, [{"data": body} for body in bodies[at : at + NUM_PICTURES]])
            found += [answer[0]["index"] for answer in results(replies)]
    share_alike = float((torch.tensor(found) == scores.argmax(1)).float().mean())
    print(f"{name}: {share_alike:.1%} of 1000 pictures")
    assert share_alike >= 0.995


def test_masks_come_as_files(models: ModelServer) -> None:
    config = WorkerConfig(model=SEGMENTER, num_classes=3, weights_source="random")
    model = build_model(config, Path())
    sent = pictures(60, 160)
    as_npz, as_mask = {"Accept": "application/x-npz"}, {"X-SmartBatch-Output": "mask"}
    scores = models.at_once("masks", [{"data": body, "headers": as_npz} for _, body in sent])
    masks = models.at_once("masks", [{"data": body, "headers": as_npz | as_mask} for _, body in sent])
    for (image, _), with_scores, with_mask in zip(sent, scores, masks, strict=True):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            expected = model(normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))[None])
        wanted = (expected["out"] if isinstance(expected, dict) else expected)[0]
        found = arrays(with_scores.content)["out"]
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
        (mask,) = arrays(with_mask.content).values()
        assert mask.dtype == np.uint8
        assert mask.shape == (image.height, image.width)
        assert len(with_mask.content) < image.height * image.width + 1000
        best = wanted.sort(0, descending=True).values
        is_clear = (best[0] - best[1]) > 1e-3 * float(wanted.abs().max())
        assert bool((torch.from_numpy(mask) == wanted.argmax(0))[is_clear].all())


def arrays(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """What an .npz holds."""
    with np.load(io.BytesIO(content)) as loaded:
        return dict(loaded)
