"""Detection over HTTP: the example as its README has it, and torchvision's by name, of one stage and of two."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from smartbatch_worker.models.detection import build_detector

from tests.detections import assert_found, spread
from tests.e2e.models import examples
from tests.e2e.models.examples import EXAMPLES
from tests.e2e.models.model_server import ModelServer, results, share_batches

DETECTION = EXAMPLES / "detection"
DETECTORS = {"ssdlite320_mobilenet_v3_large": 16, "fasterrcnn_mobilenet_v3_large_320_fpn": 16}
"""The cheapest of one stage and of two, and how many pictures each is asked for at once."""
OWN_SIZE = {"image_resize": "none", "image_crop": "none", "image_mean": "0,0,0", "image_std": "1,1,1"}


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
    raw = {"X-SmartBatch-Output": "raw"}
    replies = models.at_once(name, [{"data": body, "headers": raw} for body in bodies])
    assert share_batches(replies)
    with torch.inference_mode():
        for answer, body in zip(results(replies), bodies, strict=True):
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body)))).permute(2, 0, 1).float() / 255
            assert_found(answer, model([pixels])[0])


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
