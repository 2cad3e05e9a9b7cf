"""Detection over HTTP: the example as its README has it, and torchvision's by name, on one server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.server.running import RunningServer
from smartbatch_worker.models.detection import build_detector

from tests.conftest import StartServer
from tests.detections import assert_found, spread

DETECTION = Path(__file__).resolve().parents[2] / "examples" / "detection"
BY_NAME = "ssdlite320_mobilenet_v3_large"  # the cheapest; tests/contract/test_vision.py has Faster R-CNN
NUM_PICTURES = 16
OWN_SIZE = {"image_resize": "none", "image_crop": "none", "image_mean": "0,0,0", "image_std": "1,1,1"}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train.py writes."""
    folder = tmp_path_factory.mktemp("build")
    subprocess.run([sys.executable, str(DETECTION / "train.py"), "--build", str(folder)], check=True, timeout=240)
    return folder


@pytest.fixture(scope="module")
def detector() -> Any:
    """torchvision's module."""
    model = build_detector(BY_NAME, 4).eval()
    spread(model)
    return model


@pytest.fixture(scope="module")
def model_store(build: Path, detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store that holds both."""
    store = tmp_path_factory.mktemp("store")
    torch.save(detector.state_dict(), build / "by_name.pth")
    labels = DETECTION / "labels.txt"
    settings = ArchiveSettings(
        model_file=DETECTION / "model.py", model_path=build / "shapes.pth", labels=labels, name="shapes", output=store,
        overrides=OWN_SIZE,
    )  # fmt: skip
    build_archive(settings)
    settings = ArchiveSettings(
        model=BY_NAME, model_path=build / "by_name.pth", num_classes=4, labels=labels, name="by_name", output=store
    )
    with zipfile.ZipFile(build_archive(settings)) as mar:
        tensors = json.loads(mar.read("oip.json"))
    assert tensors["inputs"] == [{"name": "data", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert {"name": "boxes", "datatype": "FP32", "shape": [-1, -1, 4]} in tensors["outputs"]
    return store


@pytest.fixture(scope="module")
def server(start: StartServer) -> RunningServer:
    """One worker of each."""
    server = start()
    with server.management() as client:
        for name in ("shapes", "by_name"):
            client.register(f"{name}.mar", name, batch_size=NUM_PICTURES, max_batch_delay_ms=50, workers=1)
            client.wait_ready(name, 120)
    return server


def test_what_the_example_finds_over_http_is_what_it_finds_alone(server: RunningServer, build: Path) -> None:
    arguments = ["--url", server.inference_url, "--build", str(build), "--pictures", "32", "--concurrency", "16"]
    finished = subprocess.run(
        [sys.executable, str(DETECTION / "evaluate.py"), *arguments], capture_output=True, text=True, timeout=240
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result = json.loads(finished.stdout)
    assert result["num_pictures"] == 32
    assert result["num_sizes"] > 16
    assert result["num_disagreeing"] == 0
    assert result["recall"] >= 0.8
    assert result["precision"] >= 0.8
    assert result["mean_batch_size"] > 1


def test_pictures_of_mixed_sizes_are_answered_as_if_alone(server: RunningServer, detector: Any) -> None:
    generator = np.random.default_rng(3)
    bodies = []
    for _ in range(NUM_PICTURES):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        stream = io.BytesIO()
        width, height = (int(side) for side in generator.integers(60, 200, 2))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
        bodies.append(stream.getvalue())
    endpoint = f"{server.inference_url}/predictions/by_name"
    headers = {"X-SmartBatch-Output": "raw"}

    def ask(body: bytes) -> requests.Response:
        return requests.post(endpoint, data=body, headers=headers, timeout=120)

    with ThreadPoolExecutor(NUM_PICTURES) as pool:
        replies = list(pool.map(ask, bodies))
    assert [reply.status_code for reply in replies] == [200] * NUM_PICTURES, replies[0].text[:300]
    assert max(int(reply.headers["X-SmartBatch-Batch-Size"]) for reply in replies) > 1
    with torch.inference_mode():
        for reply, body in zip(replies, bodies, strict=True):
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body)))).permute(2, 0, 1).float() / 255
            assert_found(reply.json()["result"], detector([pixels])[0])
