"""Models with named inputs on a real server: requests at once, each answered as plain PyTorch answers it alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import safetensors.torch
import torch
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import build_model

SENTENCES = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(1000, 32)
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encode = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = torch.nn.Linear(32, 5)

    def forward(self, ids, mask):
        tokens = self.out(self.encode(self.embed(ids), src_key_padding_mask=mask == 0))
        return {"tokens": tokens, "mean": (tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)}
"""
PICTURES = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.look = torch.nn.Conv2d(3, 4, 5, stride=3)
        self.out = torch.nn.Linear(4 + 2, 3)

    def forward(self, image, meta):
        return self.out(torch.cat([self.look(image).mean((2, 3)), meta], 1))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    example = {"ids": [5, 17, 3, 999, 4, 8], "mask": [1] * 6}
    (folder / "sentence.json").write_text(json.dumps({"inputs": example}))
    for name, source in {"sentences": SENTENCES, "pictures": PICTURES}.items():
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def server(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("model_store")
    archives: dict[str, dict[str, Any]] = {
        "sentences": {"inputs": ("ids:int64:L:0", "mask:int64:L:0"), "example": sources / "sentence.json"},
        "pictures": {"inputs": ("image:float32:3,24,24", "meta:float32:2")},
    }
    for name, keys in archives.items():
        build_archive(ArchiveSettings(model_file=sources / name / "model.py", name=name, output=store, **keys))
    settings = ServerSettings(
        model_store=store,
        run_dir=tmp_path_factory.mktemp("run"),
        inference_port=0,
        management_port=0,
        metrics_port=0,
    )
    running = start_server(settings)
    try:
        with running.management() as client:
            for name in archives:
                client.register(f"{name}.mar", name, batch_size=64, max_batch_delay_ms=50, workers=1)
                client.wait_ready(name, 120)
        yield running
    finally:
        running.stop(grace_s=0)


def in_json(item: dict[str, torch.Tensor]) -> tuple[bytes, str]:
    named = {name: tensor.tolist() for name, tensor in item.items()}
    return json.dumps({"inputs": named}).encode(), "application/json"


def in_safetensors(item: dict[str, torch.Tensor]) -> tuple[bytes, str]:
    return safetensors.torch.save(item), "application/x-safetensors"


def in_npz(item: dict[str, torch.Tensor]) -> tuple[bytes, str]:
    stream = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in item.items()}
    np.savez(stream, **arrays)
    return stream.getvalue(), "application/octet-stream"


FORMS: list[Callable[[dict[str, torch.Tensor]], tuple[bytes, str]]] = [in_json, in_safetensors, in_npz]


def answers_of(server: RunningServer, model: str, items: list[dict[str, torch.Tensor]]) -> list[Any]:
    """All at once, the forms of a body in turn."""

    def ask(at: int) -> Any:
        body, content_type = FORMS[at % len(FORMS)](items[at])
        url = f"{server.inference_url}/predictions/{model}"
        reply = requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=120)
        assert reply.status_code == 200, reply.text
        return reply.json()["result"]

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(ask, range(len(items))))


def test_sentences_of_many_lengths(server: RunningServer, sources: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(3.7, 0.9, 48)).astype(int), 2, 400)
    ids = [torch.from_numpy(rng.integers(1, 1000, length)) for length in lengths]
    items = [{"ids": one, "mask": torch.ones_like(one)} for one in ids]
    answers = answers_of(server, "sentences", items)
    model = build_model(WorkerConfig(model="model.py"), sources / "sentences")
    for item, answer in zip(items, answers, strict=True):
        with torch.inference_mode():
            expected = model(**{name: tensor[None] for name, tensor in item.items()})
        for name in ("tokens", "mean"):
            np.testing.assert_allclose(np.array(answer[name]), expected[name][0].numpy(), atol=1e-5)


def test_a_picture_and_numbers(server: RunningServer, sources: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    items = [
        {"image": torch.rand(3, 24, 24, generator=generator), "meta": torch.rand(2, generator=generator)}
        for _ in range(16)
    ]
    answers = answers_of(server, "pictures", items)
    model = build_model(WorkerConfig(model="model.py"), sources / "pictures")
    with torch.inference_mode():
        expected = model(*(torch.stack([item[name] for item in items]) for name in ("image", "meta")))
    np.testing.assert_allclose(np.array(answers), expected.numpy(), atol=1e-5)


def test_no_request_was_retried_and_padding_is_told(server: RunningServer) -> None:
    text = requests.get(f"{server.metrics_url}/metrics", timeout=10).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    splits = [s.value for s in samples if s.name.startswith("smartbatch_splits") and s.name.endswith("_total")]
    assert splits
    assert sum(splits) == 0
    ratios = [s.value for s in samples if s.name == "smartbatch_padding_ratio"]
    assert ratios
    assert all(0 <= ratio < 0.5 for ratio in ratios)


@pytest.mark.mended
def test_open_inference_clients_are_told_the_inputs(server: RunningServer) -> None:
    told = requests.get(f"{server.inference_url}/v2/models/sentences", timeout=10).json()
    assert [(tensor["name"], tensor["datatype"]) for tensor in told["inputs"]] == [("ids", "INT64"), ("mask", "INT64")]


@pytest.mark.mended
def test_open_inference_clients_send_several_inputs(server: RunningServer, sources: Path) -> None:
    """Each in its own datatype, one as bytes and one in JSON; as many outputs, of the sizes of what was sent."""
    client = triton.InferenceServerClient(server.inference_url.removeprefix("http://"))
    ids = np.array([[5, 17, 3], [9, 8, 7]], np.int64)
    given = [triton.InferInput(name, [2, 3], "INT64") for name in ("mask", "ids")]
    given[0].set_data_from_numpy(np.ones_like(ids), binary_data=False)
    given[1].set_data_from_numpy(ids, binary_data=True)
    answer = client.infer("sentences", given)
    client.close()
    body = {"inputs": {"ids": ids.tolist(), "mask": [[1] * 3] * 2}}
    ours = requests.post(f"{server.inference_url}/predictions/sentences", json=body, timeout=60).json()["result"]
    for name, shape in (("tokens", (2, 3, 5)), ("mean", (2, 5))):
        assert answer.as_numpy(name).shape == shape
        assert np.allclose(answer.as_numpy(name), np.array([each[name] for each in ours]), atol=1e-6)
