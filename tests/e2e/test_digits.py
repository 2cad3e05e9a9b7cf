"""The digits example as its README has it: trained, archived, served and measured over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import build_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DIGITS = EXAMPLES / "digits"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train.py writes."""
    folder = tmp_path_factory.mktemp("build")
    subprocess.run([sys.executable, str(DIGITS / "train.py"), "--build", str(folder)], check=True, timeout=240)
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
def server(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one network in four packages: weights, a handler of its own, two whole programs."""
    store = tmp_path_factory.mktemp("model_store")
    export_programs(build)
    weights: dict[str, Any] = {"model_file": DIGITS / "model.py", "model_path": build / "digits.pth"}
    models: dict[str, dict[str, Any]] = {
        "digits": weights,
        "custom": {**weights, "handler": EXAMPLES / "custom_handler" / "handler.py"},
        "exported": {"model_path": build / "digits.pt2"},
        "scripted": {"model_path": build / "digits.pt"},
    }
    for name, keys in models.items():
        build_archive(
            ArchiveSettings(**keys, input_shape="1,8,8", labels=DIGITS / "labels.txt", name=name, output=store)
        )
    settings = ServerSettings(
        model_store=store,
        run_dir=tmp_path_factory.mktemp("run"),
        inference_port=0,
        management_port=0,
        metrics_port=0,
        env={"SMARTBATCH_COMPILE": "off"},  # four workers would measure what the tests of forward/ do
    )
    running = start_server(settings)
    try:
        with running.management() as client:
            for name in models:
                client.register(f"{name}.mar", name, batch_size=32, max_batch_delay_ms=10, workers=1)
                client.wait_ready(name, 120)
        yield running
    finally:
        running.stop(grace_s=0)


def test_accuracy_over_http_is_the_offline_accuracy(server: RunningServer, build: Path) -> None:
    arguments = ["--url", server.inference_url, "--build", str(build), "--concurrency", "32"]
    finished = subprocess.run(
        [sys.executable, str(DIGITS / "evaluate.py"), *arguments], capture_output=True, text=True, timeout=240
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result = json.loads(finished.stdout)
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
    server: RunningServer, build: Path, name: str, weights: str
) -> None:
    with np.load(build / "test.npz") as split:
        images = torch.from_numpy(split["images"][:9])[:, None]
    with torch.inference_mode():
        expected = offline_model(build)(images)
    reply = requests.post(f"{server.inference_url}/predictions/{name}", json={"data": images.tolist()}, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.headers["X-SmartBatch-Weights"] == weights
    torch.testing.assert_close(torch.tensor(reply.json()["result"]), expected, rtol=1e-4, atol=1e-4)


def test_topk_answers_name_the_labels(server: RunningServer, build: Path) -> None:
    with np.load(build / "test.npz") as split:
        image = split["images"][0]
    reply = requests.post(
        f"{server.inference_url}/predictions/digits",
        json={"data": image.tolist()},
        headers={"X-SmartBatch-Output": "topk"},
        timeout=60,
    )
    assert reply.status_code == 200, reply.text
    best = reply.json()["result"][0]
    assert best["label"] == (DIGITS / "labels.txt").read_text().split()[best["index"]]


def test_custom_handler_reads_csv_and_shapes_its_answers(server: RunningServer, build: Path) -> None:
    endpoint = f"{server.inference_url}/predictions/custom"
    with np.load(build / "test.npz") as split:
        images = split["images"][:20]
    for image in images:
        csv = requests.post(
            endpoint, ",".join(map(str, image.ravel())), headers={"Content-Type": "text/csv"}, timeout=60
        )
        as_json = requests.post(endpoint, json={"data": image.tolist()}, timeout=60)
        raw = requests.post(endpoint.replace("custom", "digits"), json={"data": image.tolist()}, timeout=60).json()[
            "result"
        ]
        assert csv.status_code == as_json.status_code == 200, (csv.text, as_json.text)
        assert csv.json()["result"]["digit"] == as_json.json()["result"]["digit"] == int(np.argmax(raw))
        assert 0 < csv.json()["result"]["confidence"] <= 1


def test_custom_handler_refuses_one_bad_row_by_its_own_rule(server: RunningServer) -> None:
    reply = requests.post(
        f"{server.inference_url}/predictions/custom", "1,2,3", headers={"Content-Type": "text/csv"}, timeout=60
    )
    assert reply.status_code == 400
    assert "64 values" in reply.json()["error"]["message"]
