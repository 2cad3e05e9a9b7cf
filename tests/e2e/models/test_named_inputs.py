"""Models with named inputs, and of several rows a request: asked at once, each answered as plain PyTorch answers it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import safetensors.torch
import torch
import tritonclient.http as triton
from PIL import Image
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import build_model

from tests.e2e.models.model_server import ModelServer, results, share_batches

SOURCES = {
    "sentences": """
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
""",
    "pictures": """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.look = torch.nn.Conv2d(3, 4, 5, stride=3)
        self.out = torch.nn.Linear(4 + 2, 3)

    def forward(self, image, meta):
        return self.out(torch.cat([self.look(image).mean((2, 3)), meta], 1))
""",
    "rows": """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))

    def forward(self, x):
        return self.layers(x)
""",
}
"""model.py of each; its weights are those of the seed with which the handler, too, makes a network without any."""


NOT_MEASURED = {"micro_batch": "32"}


class Pair(torch.nn.Module):
    """What becomes a program of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)
        self.out = torch.nn.Linear(8 + 3, 4)

    def forward(self, words: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """int64 [N, L] and float32 [N, 3] to [N, 4]."""
        scores: torch.Tensor = self.out(torch.cat([self.embed(words).mean(1), numbers], 1))
        return scores


def plain(folder: Path, name: str) -> torch.nn.Module:
    """The model in this process."""
    return build_model(WorkerConfig(model="model.py"), folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, source in SOURCES.items():
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    """The module that pair.pt2 was exported from."""
    torch.manual_seed(0)
    module = Pair().eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2)
    example = (torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 3))
    shapes = ({0: batch, 1: length}, {0: batch})
    torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), folder / "pair.pt2")
    return module


@pytest.fixture(scope="module")
def server(models: ModelServer, folder: Path, pair: Pair) -> Iterator[ModelServer]:
    example = {"ids": [5, 17, 3, 999, 4, 8], "mask": [1] * 6}
    (folder / "sentence.json").write_text(json.dumps({"inputs": example}))
    words = {"words": [1, 2, 3], "numbers": [0.5, 0.25, 1.0]}
    (folder / "words.json").write_text(json.dumps({"inputs": words}))
    as_they_are = {"image_resize": "24", "image_crop": "24", "image_mean": "0,0,0", "image_std": "1,1,1"}
    archives: dict[str, dict[str, Any]] = {
        "sentences": {"inputs": ("ids:int64:L:0", "mask:int64:L:0"), "example": folder / "sentence.json"},
        "pictures": {"inputs": ("image:image:3,24,24", "meta:float32:2"), "overrides": as_they_are | NOT_MEASURED},
        "rows": {"input_shape": "8", "overrides": {"compile": "off"} | NOT_MEASURED},
    }
    for name, keys in archives.items():
        models.archive(name, model_file=folder / name / "model.py", **keys)
    models.archive("pair", model_path=folder / "pair.pt2", example=folder / "words.json", overrides=NOT_MEASURED)
    with models.serving(*archives, "pair"):
        yield models


def body_of(at: int, item: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A request of named tensors: JSON, safetensors and npz in turn."""
    if at % 3 == 0:
        return {"json": {"inputs": {name: tensor.tolist() for name, tensor in item.items()}}}
    if at % 3 == 1:
        headers = {"Content-Type": "application/x-safetensors"}
        return {"data": safetensors.torch.save(dict(item)), "headers": headers}
    stream = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in item.items()}
    np.savez(stream, **arrays)
    return {"data": stream.getvalue(), "headers": {"Content-Type": "application/octet-stream"}}


def solo(model: torch.nn.Module, item: Mapping[str, torch.Tensor]) -> Any:
    """What plain PyTorch answers to one item alone."""
    with torch.inference_mode():
        return model(*(tensor[None] for tensor in item.values()))


def test_sentences_of_many_lengths(server: ModelServer, folder: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(3.7, 0.9, 48)).astype(int), 2, 400)
    ids = [torch.from_numpy(rng.integers(1, 1000, length)) for length in lengths]
    items = [{"ids": one, "mask": torch.ones_like(one)} for one in ids]
    replies = server.at_once("sentences", [body_of(*each) for each in enumerate(items)])
    model = plain(folder, "sentences")
    for item, answer in zip(items, results(replies), strict=True):
        expected = solo(model, item)
        for name in ("tokens", "mean"):
            np.testing.assert_allclose(np.array(answer[name]), expected[name][0].numpy(), atol=1e-5)


def test_a_picture_and_numbers(server: ModelServer, folder: Path) -> None:
    """PNG among numbers, and pixels as they are."""
    generator = torch.Generator().manual_seed(0)
    pixels = [torch.randint(0, 256, (3, 24, 24), generator=generator, dtype=torch.uint8) for _ in range(24)]
    items = [{"image": each, "meta": torch.rand(2, generator=generator)} for each in pixels]

    def asked(at: int) -> dict[str, Any]:
        if at % 3 > 0:
            return body_of(at, items[at])
        stream = io.BytesIO()
        Image.fromarray(items[at]["image"].permute(1, 2, 0).numpy()).save(stream, "PNG")
        picture = {"b64": base64.b64encode(stream.getvalue()).decode()}
        return {"json": {"inputs": {"image": picture, "meta": items[at]["meta"].tolist()}}}

    replies = server.at_once("pictures", [asked(at) for at in range(len(items))])
    model = plain(folder, "pictures")
    for item, answer in zip(items, results(replies), strict=True):
        expected = solo(model, {"image": item["image"].float() / 255, "meta": item["meta"]})
        np.testing.assert_allclose(np.array(answer), expected[0].numpy(), atol=1e-5)


def test_one_to_sixteen_rows_a_request(server: ModelServer, folder: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    asked = [torch.randn(1 + at % 16, 8, generator=generator) for at in range(32)]
    replies = server.at_once("rows", [{"json": {"data": rows.tolist()}} for rows in asked])
    assert share_batches(replies)
    model = plain(folder, "rows")
    for rows, answer in zip(asked, results(replies), strict=True):
        assert len(answer) == len(rows)
        with torch.inference_mode():
            expected = torch.cat([model(row[None]) for row in rows])
        np.testing.assert_allclose(np.array(answer), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_program_of_two_inputs(server: ModelServer, pair: Pair) -> None:
    """It tells its inputs by itself, and says nothing of a pad: items of one length share a forward."""
    generator = torch.Generator().manual_seed(2)
    items = [
        {
            "words": torch.randint(0, 50, (2 + at % 4,), generator=generator),
            "numbers": torch.randn(3, generator=generator),
        }
        for at in range(24)
    ]
    replies = server.at_once("pair", [body_of(*each) for each in enumerate(items)])
    assert max(int(reply.headers["X-SmartBatch-Forward-Size"]) for reply in replies) > 1
    for item, answer in zip(items, results(replies), strict=True):
        np.testing.assert_allclose(np.array(answer), solo(pair, item)[0].numpy(), atol=1e-5)


def test_no_request_was_retried_and_padding_is_told(server: ModelServer) -> None:
    samples = [sample for family in server.metrics() for sample in family.samples]
    its_own = [s for s in samples if "sentences" in s.labels.values()]
    splits = [s.value for s in its_own if s.name.startswith("smartbatch_splits") and s.name.endswith("_total")]
    assert splits
    assert sum(splits) == 0
    ratios = [s.value for s in its_own if s.name == "smartbatch_padding_ratio"]
    assert ratios
    assert all(0 <= ratio < 0.5 for ratio in ratios)


@pytest.mark.mended
def test_open_inference_clients_are_told_the_inputs(server: ModelServer) -> None:
    told = requests.get(f"{server.url}/v2/models/sentences", timeout=10).json()
    assert [(tensor["name"], tensor["datatype"]) for tensor in told["inputs"]] == [("ids", "INT64"), ("mask", "INT64")]


@pytest.mark.mended
def test_open_inference_clients_send_several_inputs(server: ModelServer) -> None:
    """Each in its own datatype, one as bytes and one in JSON; as many outputs, of the sizes of what was sent."""
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    ids = np.array([[5, 17, 3], [9, 8, 7]], np.int64)
    given = [triton.InferInput(name, [2, 3], "INT64") for name in ("mask", "ids")]
    given[0].set_data_from_numpy(np.ones_like(ids), binary_data=False)
    given[1].set_data_from_numpy(ids, binary_data=True)
    answer = client.infer("sentences", given)
    client.close()
    body = {"inputs": {"ids": ids.tolist(), "mask": [[1] * 3] * 2}}
    ours = requests.post(f"{server.url}/predictions/sentences", json=body, timeout=60).json()["result"]
    for name, shape in (("tokens", (2, 3, 5)), ("mean", (2, 5))):
        assert answer.as_numpy(name).shape == shape
        assert np.allclose(answer.as_numpy(name), np.array([each[name] for each in ours]), atol=1e-6)
