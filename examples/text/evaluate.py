"""Measure the served model's held-out accuracy over HTTP and hold it against the same weights run offline.

    python examples/text/evaluate.py --url http://127.0.0.1:8080

Every test sentence is one request, 32 at a time, JSON and plain text in turn. Exit code 0 says that each single answer
names the library that the offline model names: a row that was given another row's answer would show.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
import torch
from model import Reader  # type: ignore[import-not-found]  # the file beside this script
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent

_thread = threading.local()


@dataclass(frozen=True)
class Answer:
    """What came back for one sentence."""

    label: str
    batch_size: int


def main() -> int:
    """Evaluate and print one JSON object; 0 where served and offline agree on every sentence."""
    parser = argparse.ArgumentParser(description="Held-out accuracy over HTTP.")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="inference address")
    parser.add_argument("--model", default="text", help="registered name")
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder train.py wrote to")
    arguments = parser.parse_args()

    pairs = json.loads((arguments.build / "test.json").read_text())
    texts, labels = [text for text, _ in pairs], [label for _, label in pairs]
    offline = predict_offline(arguments.build, texts)
    endpoint = f"{arguments.url.rstrip('/')}/predictions/{arguments.model}"
    with ThreadPoolExecutor(arguments.concurrency) as pool:
        answers = list(pool.map(lambda pair: ask(endpoint, *pair), enumerate(texts)))
    served = [answer.label for answer in answers]
    result = {
        "num_texts": len(labels),
        "http_accuracy": share(served, labels),
        "offline_accuracy": share(offline, labels),
        "num_disagreeing": sum(one != other for one, other in zip(served, offline, strict=True)),
        "mean_batch_size": round(sum(answer.batch_size for answer in answers) / len(answers), 2),
    }
    print(json.dumps(result))
    return 0 if result["num_disagreeing"] == 0 else 1


def share(found: list[str], labels: list[str]) -> float:
    """Of the labels, how many were found."""
    return sum(one == other for one, other in zip(found, labels, strict=True)) / len(labels)


def predict_offline(build: Path, texts: list[str]) -> list[str]:
    """The labels that these weights name, one text after the other."""
    names = (HERE / "labels.txt").read_text().split()
    tokenizer = Tokenizer.from_file(str(build / "tokenizer.json"))
    model = Reader()
    model.load_state_dict(torch.load(build / "text.pth", weights_only=True))
    model.eval()
    labels = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            labels.append(names[int(model(ids, torch.ones_like(ids)).argmax())])
    return labels


def ask(endpoint: str, index: int, text: str) -> Answer:
    """Send one text: as JSON where the index is even, as it is where it is odd."""
    if not hasattr(_thread, "session"):
        _thread.session = requests.Session()
    if index % 2 == 0:
        response = _thread.session.post(endpoint, json={"text": text}, timeout=60)
    else:
        plain = {"Content-Type": "text/plain"}
        response = _thread.session.post(endpoint, data=text.encode(), headers=plain, timeout=60)
    if response.status_code != 200:
        raise SystemExit(f"sentence {index}: {response.status_code} {response.text}")
    best = response.json()["result"][0]
    return Answer(best["label"], int(response.headers["X-SmartBatch-Batch-Size"]))


if __name__ == "__main__":
    sys.exit(main())
