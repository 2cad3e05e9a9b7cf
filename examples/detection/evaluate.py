"""What the served detector finds in new pictures of mixed sizes, held against the shapes drawn and the model offline.

    python examples/detection/evaluate.py --url http://127.0.0.1:8080

Every picture is one request, 16 at a time, JPEG. Exit code 0 says that each answer holds the boxes that the same
weights find in that picture alone, without a server: one that was answered with another's, or changed by its neighbours
in the batch, would show.
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
from model import ShapeFinder  # type: ignore[import-not-found]  # the file beside this script
from pictures import Drawn, draw  # type: ignore[import-not-found]
from PIL import Image
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import pil_to_tensor

HERE = Path(__file__).resolve().parent
MIN_OVERLAP = 0.5
MAX_APART = 0.1  # pixels, and a thousandth of it in score: rounding, in batches of another size

_thread = threading.local()


@dataclass(frozen=True)
class Found:
    """What is in one picture, best first."""

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    batch_size: int = 1

    @classmethod
    def of(cls, answer: dict[str, torch.Tensor], batch_size: int = 1) -> Found:
        """An answer of the model's; JSON writes boxes [0, 4] as an empty list."""
        return cls(answer["boxes"].reshape(-1, 4), answer["labels"], answer["scores"], batch_size)

    def agrees_with(self, other: Found) -> bool:
        """Whether both are the same, up to rounding."""
        return bool(
            torch.equal(self.labels, other.labels)
            and torch.allclose(self.boxes, other.boxes, rtol=0, atol=MAX_APART)
            and torch.allclose(self.scores, other.scores, rtol=0, atol=MAX_APART / 1000)
        )

    def num_right(self, drawn: Drawn) -> int:
        """Shapes that were found: the right label, where they are."""
        if len(self.boxes) == 0:
            return 0
        overlaps = box_iou(torch.from_numpy(drawn.boxes), self.boxes)
        is_same = torch.from_numpy(drawn.labels)[:, None] == self.labels
        return int(((overlaps >= MIN_OVERLAP) & is_same).any(1).sum())


def main() -> int:
    """Evaluate and print one JSON object; 0 where served and offline agree on every picture."""
    parser = argparse.ArgumentParser(description="What is found over HTTP.")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="inference address")
    parser.add_argument("--model", default="shapes", help="registered name")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=16, help="requests in flight")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder train.py wrote to")
    arguments = parser.parse_args()

    generator = np.random.default_rng(1)
    drawn = [draw(generator) for _ in range(arguments.pictures)]
    bodies = [as_jpeg(each.image) for each in drawn]
    endpoint = f"{arguments.url.rstrip('/')}/predictions/{arguments.model}"
    with ThreadPoolExecutor(arguments.concurrency) as pool:
        served = list(pool.map(lambda body: ask(endpoint, body), bodies))
    offline = find_offline(arguments.build / "shapes.pth", bodies)
    num_shapes = sum(len(each.labels) for each in drawn)
    num_right = sum(found.num_right(each) for found, each in zip(served, drawn, strict=True))
    result = {
        "num_pictures": len(drawn),
        "num_sizes": len({each.image.size for each in drawn}),
        "num_shapes": num_shapes,
        "recall": round(num_right / num_shapes, 3),
        "precision": round(num_right / max(1, sum(len(found.labels) for found in served)), 3),
        "num_disagreeing": sum(not a.agrees_with(b) for a, b in zip(served, offline, strict=True)),
        "mean_batch_size": round(float(np.mean([found.batch_size for found in served])), 2),
    }
    print(json.dumps(result))
    return 0 if result["num_disagreeing"] == 0 else 1


def as_jpeg(image: Image.Image) -> bytes:
    """The body of a request."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def find_offline(weights: Path, bodies: list[bytes]) -> list[Found]:
    """What these weights find in each picture alone."""
    model = ShapeFinder()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    with torch.inference_mode():
        pictures = [pil_to_tensor(Image.open(io.BytesIO(body))).float() / 255 for body in bodies]
        return [Found.of(model(picture[None])[0]) for picture in pictures]


def ask(endpoint: str, body: bytes) -> Found:
    """Send one picture."""
    if not hasattr(_thread, "session"):
        _thread.session = requests.Session()
    headers = {"Content-Type": "image/jpeg", "X-SmartBatch-Output": "raw"}
    response = _thread.session.post(endpoint, data=body, headers=headers, timeout=60)
    if response.status_code != 200:
        raise SystemExit(f"{response.status_code} {response.text}")
    answer = {name: torch.tensor(values) for name, values in response.json()["result"].items()}
    return Found.of(answer, int(response.headers["X-SmartBatch-Batch-Size"]))


if __name__ == "__main__":
    sys.exit(main())
