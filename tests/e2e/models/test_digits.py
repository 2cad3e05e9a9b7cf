"""The digits example as its README has it: trained, archived, served and measured over HTTP, in four packages."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import build_model

from tests.e2e.models import examples
from tests.e2e.models.examples import EXAMPLES
from tests.e2e.models.model_server import ModelServer, results

DIGITS = EXAMPLES / "digits"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train.py writes."""
    folder = tmp_path_factory.mktemp("build")
    examples.run("digits/train.py", "--build", folder)
    return folder


def offline_model(build: Path) -> torch.nn.Module:
    keys = {"model": "model.py", "weights": str(build / "digits.pth")}
    return build_model(WorkerConfig.resolve(keys, {}), DIGITS)


def export_programs(build: Path) -> None:
    """Write digits.pt2 and digits.pt."""
    model = offline_model(build)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes), build / "digits.pt2"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; its files are still served
        torch.jit.trace(model, torch.zeros(1, 1, 8, 8)).save(str(build / "digits.pt"))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def server(models: ModelServer, build: Path) -> Iterator[ModelServer]:
    """One network in four packages: weights, a handler of its own, two whole programs."""
    export_programs(build)
    weights: dict[str, Any] = {"model_file": DIGITS / "model.py", "model_path": build / "digits.pth"}
    packages: dict[str, dict[str, Any]] = {
        "digits": weights,
        "custom": {**weights, "handler": EXAMPLES / "custom_handler" / "handler.py"},
        "exported": {"model_path": build / "digits.pt2"},
        "scripted": {"model_path": build / "digits.pt"},
    }
    for name, keys in packages.items():
        # Four workers would measure what the tests of forward/ do.
        overrides = {"compile": "off", "micro_batch": "32"}
        models.archive(name, **keys, input_shape="1,8,8", labels=DIGITS / "labels.txt", overrides=overrides)
    with models.serving(*packages, batch_size=32, max_batch_delay_ms=10):
        yield models


def test_accuracy_over_http_is_the_offline_accuracy(server: ModelServer, build: Path) -> None:
    said = examples.run("digits/evaluate.py", "--url", server.url, "--build", build, "--concurrency", 32)
    result = json.loads(said)
    assert result["num_images"] == 450
    assert result["http_accuracy"] == result["offline_accuracy"]
    assert result["num_disagreeing"] == 0
    assert result["http_accuracy"] >= 0.97
    assert result["mean_batch_size"] > 1


@pytest.mark.parametrize(
    ("name", "weights"),
    [("digits", "file digits.pth"), ("exported", "embedded in digits.pt2"), ("scripted", "embedded in digits.pt")],
)
def test_every_package_gives_the_networks_own_numbers(
    server: ModelServer, build: Path, name: str, weights: str
) -> None:
    with np.load(build / "test.npz") as split:
        images = torch.from_numpy(split["images"][:9])[:, None]
    with torch.inference_mode():
        expected = offline_model(build)(images)
    reply = server.post(name, json={"data": images.tolist()})
    assert reply.status_code == 200, reply.text
    assert reply.headers["X-SmartBatch-Weights"] == weights
    torch.testing.assert_close(torch.tensor(reply.json()["result"]), expected, rtol=1e-4, atol=1e-4)


def test_topk_answers_name_the_labels(server: ModelServer, build: Path) -> None:
    with np.load(build / "test.npz") as split:
        image = split["images"][0]
    reply = server.post("digits", json={"data": image.tolist()}, headers={"X-SmartBatch-Output": "topk"})
    assert reply.status_code == 200, reply.text
    best = reply.json()["result"][0]
    assert best["label"] == (DIGITS / "labels.txt").read_text().split()[best["index"]]


def test_custom_handler_reads_csv_and_shapes_its_answers(server: ModelServer, build: Path) -> None:
    with np.load(build / "test.npz") as split:
        images = split["images"][:20]
    as_json = [{"json": {"data": image.tolist()}} for image in images]
    as_csv = [{"data": ",".join(map(str, image.ravel())), "headers": {"Content-Type": "text/csv"}} for image in images]
    answers = (
        results(server.at_once("custom", as_csv)),
        results(server.at_once("custom", as_json)),
        results(server.at_once("digits", as_json)),
    )
    for csv, json_answer, raw in zip(*answers, strict=True):
        assert csv["digit"] == json_answer["digit"] == int(np.argmax(raw))
        assert 0 < csv["confidence"] <= 1


def test_custom_handler_refuses_one_bad_row_by_its_own_rule(server: ModelServer) -> None:
    reply = server.post("custom", data="1,2,3", headers={"Content-Type": "text/csv"})
    assert reply.status_code == 400
    assert "64 values" in reply.json()["error"]["message"]
