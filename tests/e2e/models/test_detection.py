"""Detection over HTTP: the example as its README has it, and torchvision's by name, of one stage and of two."""

from __future__ import annotations

import io
import json
import runpy
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from smartbatch_worker.models.detection import build_detector
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import pil_to_tensor

from tests.detections import assert_found, spread, train
from tests.e2e.models import examples
from tests.e2e.models.examples import EXAMPLES
from tests.e2e.models.model_server import ModelServer, results, share_batches

DETECTION = EXAMPLES / "detection"
NAMES = (DETECTION / "labels.txt").read_text().splitlines()
DETECTORS = {"ssdlite320_mobilenet_v3_large": 16, "fasterrcnn_mobilenet_v3_large_320_fpn": 16}
"""The cheapest of one stage and of two, and how many pictures each is asked for at once."""
TRAINED = {"ssdlite320_mobilenet_v3_large": 60, "fasterrcnn_mobilenet_v3_large_320_fpn": 100}
"""How many steps of four pictures each: a second a step, of the R-CNN one and a half."""
RAW = {"X-SmartBatch-Output": "raw"}
OWN_SIZE = {"image_resize": "none", "image_crop": "none", "image_mean": "0,0,0", "image_std": "1,1,1"}


@pytest.mark.slow  # half a minute; other examples, and detection by a model of torchvision's, are in CI
def test_what_the_example_finds_over_http_is_what_it_finds_alone(models: ModelServer, tmp_path: Path) -> None:
    examples.run("detection/train.py", "--build", tmp_path)
    files = {"model_file": DETECTION / "model.py", "model_path": tmp_path / "shapes.pth"}
    models.archive("shapes", **files, labels=DETECTION / "labels.txt", overrides=OWN_SIZE)
    with models.serving("shapes", batch_size=16):
        arguments = ("--url", models.url, "--build", tmp_path, "--pictures", 32, "--concurrency", 16)
        result = json.loads(examples.run("detection/evaluate.py", *arguments))
    assert result["num_pictures"] == 32
    assert result["num_sizes"] > 16
    assert result["num_disagreeing"] == 0
    assert result["recall"] >= 0.8
    assert result["precision"] >= 0.8
    assert result["mean_batch_size"] > 1


@pytest.fixture(
    params=[
        "ssdlite320_mobilenet_v3_large",
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", marks=pytest.mark.slow),
    ]
)
def detector(request: pytest.FixtureRequest, models: ModelServer, tmp_path: Path) -> Iterator[tuple[str, int, Any]]:
    """A served detector's name, how many pictures it is asked for, and torchvision's module."""
    name = request.param
    model = build_detector(name, 4).eval()
    torch.save(spread(model), tmp_path / "weights.pth")
    labels = DETECTION / "labels.txt"
    archive = models.archive(name, model=name, model_path=tmp_path / "weights.pth", num_classes=4, labels=labels)
    with zipfile.ZipFile(archive) as mar:
        tensors = json.loads(mar.read("oip.json"))
    assert tensors["inputs"] == [{"name": "data", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert {"name": "boxes", "datatype": "FP32", "shape": [-1, -1, 4]} in tensors["outputs"]
    with models.serving(name, batch_size=DETECTORS[name]):
        yield name, DETECTORS[name], model


def test_pictures_of_mixed_sizes_are_answered_as_if_alone(models: ModelServer, detector: tuple[str, int, Any]) -> None:
    name, count, model = detector
    bodies = pictures(count)
    replies = models.at_once(name, [{"data": body, "headers": RAW} for body in bodies])
    assert share_batches(replies)
    with torch.inference_mode():
        for answer, body in zip(results(replies), bodies, strict=True):
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body)))).permute(2, 0, 1).float() / 255
            assert_found(answer, model([pixels])[0])


@pytest.mark.slow  # minutes of training
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "num_steps"), TRAINED.items())
def test_what_is_trained_is_found_over_http(models: ModelServer, tmp_path: Path, name: str, num_steps: int) -> None:
    """Shapes in pictures of mixed sizes: those found are those that the weights find alone, and most of those drawn."""
    draw = runpy.run_path(str(DETECTION / "pictures.py"))["draw"]
    model = build_detector(name, 4)
    train(model, draw, num_steps)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    trained = f"trained_{name}"
    labels = DETECTION / "labels.txt"
    models.archive(trained, model=name, model_path=tmp_path / "weights.pth", num_classes=4, labels=labels)
    generator = np.random.default_rng(1)
    drawn = [draw(generator) for _ in range(32)]
    bodies = []
    for each in drawn:
        stream = io.BytesIO()
        each.image.save(stream, "PNG")
        bodies.append(stream.getvalue())
    with models.serving(trained, batch_size=32):
        replies = models.at_once(trained, [{"data": body, "headers": RAW} for body in bodies])
        likely = results(models.at_once(trained, [{"data": body} for body in bodies]))
    assert share_batches(replies)
    assert len({each.image.size for each in drawn}) > 16
    num_right, num_drawn = 0, 0
    with torch.inference_mode():
        for answer, found, each in zip(results(replies), likely, drawn, strict=True):
            assert_found(answer, model([pil_to_tensor(each.image).float() / 255])[0])
            boxes = torch.tensor([one["box"] for one in found]).reshape(-1, 4)
            is_same = np.array(NAMES)[each.labels][:, None] == np.array([one["label"] for one in found], dtype=str)
            overlaps = box_iou(torch.from_numpy(each.boxes), boxes).numpy()
            num_right += int(((overlaps >= 0.5) & is_same).any(1).sum())
            num_drawn += len(each.labels)
    num_likely = sum(map(len, likely))
    print(f"{name}: {num_right} of {num_drawn} shapes found, {num_likely} boxes of a score of 0.5")
    assert num_likely >= num_drawn / 2
    assert num_right >= num_drawn / 2


def pictures(count: int) -> list[bytes]:
    """JPEGs of smooth colours, each of a size of its own."""
    generator = np.random.default_rng(3)
    bodies = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        stream = io.BytesIO()
        width, height = (int(side) for side in generator.integers(60, 200, 2))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
        bodies.append(stream.getvalue())
    return bodies
