"""Measure the served model's held-out accuracy over HTTP and hold it against the same weights run offline.

    python examples/digits/evaluate.py --url http://127.0.0.1:8080

Every test image is one request, 32 at a time, JSON and .npy bodies in turn. Exit code 0 says that each single answer
names the digit that the offline model names: a row that was given another row's answer would show.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests
import torch
from model import DigitsCNN  # type: ignore[import-not-found]  # the file beside this script

HERE = Path(__file__).resolve().parent

_thread = threading.local()


@dataclass(frozen=True)
class Answer:
    """What came back for one image."""

    digit: int
    batch_size: int


def main() -> int:
    """Evaluate and print one JSON object; 0 where served and offline agree on every image."""
    parser = argparse.ArgumentParser(description="Held-out accuracy over HTTP.")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="inference address")
    parser.add_argument("--model", default="digits", help="registered name")
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder train.py wrote to")
    arguments = parser.parse_args()

    with np.load(arguments.build / "test.npz") as split:
        images, labels = split["images"], split["labels"]
    offline = predict_offline(arguments.build / "digits.pth", images)
    endpoint = f"{arguments.url.rstrip('/')}/predictions/{arguments.model}"
    with ThreadPoolExecutor(arguments.concurrency) as pool:
        answers = list(pool.map(lambda pair: ask(endpoint, *pair), enumerate(images)))
    served = np.array([answer.digit for answer in answers])
    result = {
        "num_images": len(labels),
        "http_accuracy": float(np.mean(served == labels)),
        "offline_accuracy": float(np.mean(offline == labels)),
        "num_disagreeing": int(np.sum(served != offline)),
        "mean_batch_size": round(float(np.mean([answer.batch_size for answer in answers])), 2),
    }
    print(json.dumps(result))
    return 0 if result["num_disagreeing"] == 0 else 1


def predict_offline(weights: Path, images: np.ndarray) -> np.ndarray:
    """The digits that these weights name for images [N, 8, 8], all in one forward."""
    model = DigitsCNN()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    with torch.inference_mode():
        digits: np.ndarray = model(torch.from_numpy(images)[:, None]).argmax(1).numpy()
    return digits


def ask(endpoint: str, index: int, image: np.ndarray) -> Answer:
    """Send one image [8, 8]: as JSON where the index is even, as .npy where it is odd."""
    if not hasattr(_thread, "session"):
        _thread.session = requests.Session()
    if index % 2 == 0:
        response = _thread.session.post(endpoint, json={"data": image.tolist()}, timeout=60)
    else:
        body = io.BytesIO()
        np.save(body, image[None])
        response = _thread.session.post(
            endpoint, data=body.getvalue(), headers={"Content-Type": "application/x-npy"}, timeout=60
        )
    if response.status_code != 200:
        raise SystemExit(f"image {index}: {response.status_code} {response.text}")
    logits = response.json()["result"]
    return Answer(int(np.argmax(logits)), int(response.headers["X-SmartBatch-Batch-Size"]))


if __name__ == "__main__":
    sys.exit(main())
