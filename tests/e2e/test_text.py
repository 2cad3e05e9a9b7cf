"""Text and sound through one real server: the example as its README has it, a Hugging Face folder, WAV and FLAC."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import soundfile
import tokenizers
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.archive.pack import pack
from smartbatch.archive.stage import stage
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server

from tests import small_transformers
from tests.small_transformers import lengths, sentence, solo

TEXT = Path(__file__).resolve().parents[2] / "examples" / "text"
LOUDNESS = """
import torch

class Loudness(torch.nn.Module):
    def forward(self, samples):
        return (samples**2).sum(1, keepdim=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Any:
    """A classifier in folder/bert, and itself."""
    return small_transformers.bert(folder / "bert", "ForSequenceClassification", num_labels=3)


@pytest.fixture(scope="module")
def server(folder: Path, bert: Any) -> Iterator[RunningServer]:
    subprocess.run([sys.executable, str(TEXT / "train.py"), "--build", str(folder)], check=True, timeout=240)
    (folder / "loudness.py").write_text(LOUDNESS)
    soundfile.write(folder / "example.wav", np.zeros(8_000), 16_000)
    models: dict[str, dict[str, Any]] = {
        "text": {
            "model_file": TEXT / "model.py",
            "model_path": folder / "text.pth",
            "tokenizer": folder / "tokenizer.json",
            "labels": TEXT / "labels.txt",
            "inputs": ("input_ids:int64:L:0", "attention_mask:int64:L:0"),
            "example": TEXT / "example.json",
        },
        "bert": {"hf": str(folder / "bert")},
        "loudness": {
            "model_file": folder / "loudness.py",
            "inputs": ("samples:float32:T:0",),
            "lengths": ("T=8000,12000,16000",),
            "overrides": {"sample_rate": "16000"},
            "example": folder / "example.wav",
        },
    }
    for name, keys in models.items():
        made = ArchiveSettings(**keys, name=name, output=folder / "store")
        if name == "text":
            build_archive(made)
        else:  # tests/contract has such archives checked; each check is a process that imports all there is
            with tempfile.TemporaryDirectory() as staged:
                pack(stage(made, Path(staged), lambda _: None), made)
    settings = ServerSettings(
        model_store=folder / "store", run_dir=folder / "run", inference_port=0, management_port=0, metrics_port=0
    )
    running = start_server(settings)
    try:
        with running.management() as client:
            for name in models:
                client.register(f"{name}.mar", name, batch_size=64, max_batch_delay_ms=20, workers=1)
                client.wait_ready(name, 120)
        yield running
    finally:
        running.stop(grace_s=0)


def post(server: RunningServer, model: str, **request: Any) -> requests.Response:
    return requests.post(f"{server.inference_url}/predictions/{model}", timeout=120, **request)


def test_the_examples_accuracy_over_http_is_the_offline_accuracy(server: RunningServer, folder: Path) -> None:
    finished = subprocess.run(
        [sys.executable, str(TEXT / "evaluate.py"), "--url", server.inference_url, "--build", str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    print(finished.stdout)  # what the example's README shows
    result = json.loads(finished.stdout)
    assert result["num_texts"] > 500
    assert result["num_disagreeing"] == 0
    assert result["http_accuracy"] == result["offline_accuracy"] >= 0.75
    assert result["mean_batch_size"] > 1


def test_sentences_of_all_lengths_at_once_are_answered_as_alone(server: RunningServer, folder: Path, bert: Any) -> None:
    texts = [sentence(count, seed) for seed, count in enumerate(lengths(64, 8, 512))]

    def ask(text: str) -> requests.Response:
        return post(server, "bert", json={"text": text}, headers={"X-SmartBatch-Output": "raw"})

    with ThreadPoolExecutor(len(texts)) as pool:
        replies = list(pool.map(ask, texts))
    made = tokenizers.Tokenizer.from_file(str(folder / "bert" / "tokenizer.json"))
    for text, reply in zip(texts, replies, strict=True):
        assert reply.status_code == 200, reply.text
        ids = made.encode(text).ids
        assert ("X-SmartBatch-Truncated" in reply.headers) == (len(ids) > 512)
        assert reply.headers["X-SmartBatch-Weights"] == "file bert/model.safetensors"
        if len(ids) <= 512:
            np.testing.assert_allclose(reply.json()["result"], solo(bert, ids).logits[0].numpy(), rtol=0, atol=1e-5)


def test_sounds_at_once(server: RunningServer) -> None:
    sounds = [np.random.default_rng(n).uniform(-0.9, 0.9, 8_000 + 500 * n).astype(np.float32) for n in range(16)]

    def ask(samples: np.ndarray[Any, Any]) -> requests.Response:
        stream = io.BytesIO()
        soundfile.write(stream, samples, 16_000, format="FLAC" if len(samples) % 1000 else "WAV", subtype="PCM_16")
        return post(server, "loudness", data=stream.getvalue())

    with ThreadPoolExecutor(len(sounds)) as pool:
        replies = list(pool.map(ask, sounds))
    for samples, reply in zip(sounds, replies, strict=True):
        assert reply.status_code == 200, reply.text
        assert reply.json()["result"] == [pytest.approx(float((samples**2).sum()), rel=1e-3)]


def test_bad_bodies_are_refused_in_words(server: RunningServer) -> None:
    for model, request, status in (
        ("bert", {"data": b'{"text": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400),
        ("bert", {"json": {"words": "a"}}, 400),
        ("loudness", {"data": b"RIFF\xff\xff\xff\xffWAVEfmt "}, 400),
    ):
        reply = post(server, model, **request)
        assert reply.status_code == status, reply.text
        assert reply.json()["error"]["message"]
