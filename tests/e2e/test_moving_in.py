"""One server of a model with two inputs and of an archive of TorchServe's own handler: what drives the one, what of the
other is said.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from smartbatch import Client
from smartbatch.archive.build import ArchiveSettings, build_archive

from tests.e2e.serve_process import Served, served
from tests.e2e.test_serve import COMMAND

pytestmark = pytest.mark.timeout(1200)

MODEL = """
import torch

class Sum(torch.nn.Module):
    def forward(self, ids, mask):
        if (ids[mask > 0] < 3).any():
            raise ValueError("made-up ids: the example is not used")
        total = (ids * mask).sum(1)
        return {"total": total.double(), "text": [str(int(value)) for value in total]}
"""
EXAMPLE = {"inputs": {"ids": [3, 4, 5], "mask": [1, 1, 1]}}


class Means(torch.nn.Module):
    """Five numbers a picture."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        means = pictures.mean((2, 3))
        return torch.cat([means, -means[:, :2]], 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("moving")
    store = folder / "store"
    (folder / "model.py").write_text(MODEL)
    (folder / "example.json").write_text(json.dumps(EXAMPLE))
    build_archive(
        ArchiveSettings(
            model_file=folder / "model.py",
            name="sum",
            inputs=("ids:int64:L:0", "mask:int64:L:0"),
            example=folder / "example.json",
            output=store,
        )
    )
    old_archive(store / "old.mar")
    with served(store, folder, env={}, models=("sum", "old")) as running:
        yield running


def old_archive(path: Path) -> None:
    """As torch-model-archiver lays it out for `--handler image_classifier`; the tool itself empties /tmp/<name>."""
    program = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; old archives are made of it
        torch.jit.save(torch.jit.script(Means()), program)
    model = {"modelName": "old", "serializedFile": "net.pt", "handler": "image_classifier", "modelVersion": "1.0"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("net.pt", program.getvalue())
        archive.writestr("index_to_name.json", json.dumps({str(index): f"class {index}" for index in range(5)}))


def answer(server: Served, model: str, body: bytes, content_type: str) -> requests.Response:
    headers = {"Content-Type": content_type}
    return requests.post(f"{server.inference_url}/predictions/{model}", data=body, headers=headers, timeout=120)


def test_the_command_that_serve_prints_is_the_example(server: Served) -> None:
    said = server.said.read_text()
    (line,) = [line.strip() for line in said.splitlines() if line.strip().startswith("curl") and "/sum" in line]
    assert json.dumps(EXAMPLE) in line
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {"result": {"total": 12.0, "text": "12"}}


def test_an_old_archive_is_served_as_it_is_and_what_it_lacks_is_said(server: Served) -> None:
    said = server.said.read_text()
    assert said.count("old.mar is served as it is, by its own handler (image_classifier)") == 1
    assert "sum.mar is served as it is" not in said
    stream = io.BytesIO()
    Image.new("RGB", (300, 300), "red").save(stream, "PNG")
    reply = answer(server, "old", stream.getvalue(), "image/png")
    assert reply.status_code == 200, reply.text
    assert max(reply.json(), key=reply.json().get) == "class 0"


def test_stress_sends_bodies_of_several_lengths(server: Served, tmp_path: Path) -> None:
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    for length in (1, 2, 7, 30):
        ids = np.arange(3, 3 + length)
        np.savez(bodies / f"{length}.npz", ids=ids, mask=np.ones_like(ids))
    (bodies / "two.json").write_text(json.dumps({"inputs": [EXAMPLE["inputs"], EXAMPLE["inputs"]]}))
    result = stress(server, tmp_path / "out", f"--body={bodies}")
    assert result["totals"]["failures"] == 0
    assert result["totals"]["requests"] > 20
    assert result["totals"]["avg_batch_size"] > 1


def test_stress_sends_the_archives_example_where_nobody_says(server: Served, tmp_path: Path) -> None:
    result = stress(server, tmp_path / "out")
    assert result["totals"]["failures"] == 0
    assert (tmp_path / "out" / "example.json").read_text() == json.dumps(EXAMPLE)


def stress(server: Served, out: Path, *more: str) -> dict[str, dict[str, float]]:
    state = server.state
    urls = [f"--url={state.inference_url}", f"--management-url={state.management_url}"]
    command = [*COMMAND, "stress", "--model=sum", *urls, f"--metrics-url={state.metrics_url}", f"--out={out}"]
    command += ["--duration=3s", "--users=8", "--steps=1", *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, dict[str, float]] = json.loads((out / "stress.json").read_text())
    return found


def test_the_canary_is_the_example(server: Served) -> None:
    command = [*COMMAND, "retune", "sum", "--batch-size=4", f"--run-dir={server.run_dir}", "--timeout=280", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["canary"] == "canary request answered 200"


def test_a_client_sends_arrays_by_name(server: Served, tmp_path: Path) -> None:
    arrays = {"ids": np.array([2**53 + 1, 3]), "mask": np.array([0, 1])}
    with Client(server.inference_url, "sum") as client:
        assert client.predict(arrays).json()["result"]["text"] == "3"
    np.savez(tmp_path / "body.npz", ids=arrays["ids"], mask=arrays["mask"])
    command = [*COMMAND, "predict", str(tmp_path / "body.npz"), "--model=sum", f"--run-dir={server.run_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {"result": {"total": 3.0, "text": "3"}}
