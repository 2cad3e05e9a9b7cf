"""A model with two inputs and an archive of TorchServe's own handler, as `smartbatch serve` is started with them: what
drives the one, what of the other is said.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from smartbatch import Client

from tests.e2e.models.brought_along import EXAMPLE
from tests.e2e.models.model_server import ModelServer
from tests.e2e.test_serve import COMMAND

pytestmark = pytest.mark.timeout(1200)


def test_the_command_that_serve_prints_is_the_example(models: ModelServer) -> None:
    said = models.served.said.read_text()
    (line,) = [line.strip() for line in said.splitlines() if line.strip().startswith("curl") and "/sum" in line]
    assert json.dumps(EXAMPLE) in line
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {"result": {"total": 12.0, "text": "12"}}


def test_an_old_archive_is_served_as_it_is_and_what_it_lacks_is_said(models: ModelServer) -> None:
    said = models.served.said.read_text()
    assert said.count("old.mar is served as it is, by its own handler (image_classifier)") == 1
    assert "sum.mar is served as it is" not in said
    stream = io.BytesIO()
    Image.new("RGB", (300, 300), "red").save(stream, "PNG")
    reply = models.post("old", data=stream.getvalue(), headers={"Content-Type": "image/png"})
    assert reply.status_code == 200, reply.text
    assert max(reply.json(), key=reply.json().get) == "class 0"


def test_stress_sends_bodies_of_several_lengths(models: ModelServer, tmp_path: Path) -> None:
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    for length in (1, 2, 7, 30):
        ids = np.arange(3, 3 + length)
        np.savez(bodies / f"{length}.npz", ids=ids, mask=np.ones_like(ids))
    (bodies / "two.json").write_text(json.dumps({"inputs": [EXAMPLE["inputs"], EXAMPLE["inputs"]]}))
    result = stress(models, tmp_path / "out", f"--body={bodies}")
    assert result["totals"]["failures"] == 0
    assert result["totals"]["requests"] > 20
    assert result["totals"]["avg_batch_size"] > 1


def test_stress_sends_the_archives_example_where_nobody_says(models: ModelServer, tmp_path: Path) -> None:
    result = stress(models, tmp_path / "out")
    assert result["totals"]["failures"] == 0
    assert (tmp_path / "out" / "example.json").read_text() == json.dumps(EXAMPLE)


def stress(models: ModelServer, out: Path, *more: str) -> dict[str, dict[str, float]]:
    state = models.served.state
    urls = [f"--url={state.inference_url}", f"--management-url={state.management_url}"]
    command = [*COMMAND, "stress", "--model=sum", *urls, f"--metrics-url={state.metrics_url}", f"--out={out}"]
    command += ["--duration=2s", "--users=8", "--steps=1", *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, dict[str, float]] = json.loads((out / "stress.json").read_text())
    return found


def test_the_canary_is_the_example(models: ModelServer) -> None:
    run_dir = models.served.run_dir
    command = [*COMMAND, "retune", "sum", "--batch-size=4", f"--run-dir={run_dir}", "--timeout=280", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["canary"] == "canary request answered 200"


def test_a_client_sends_arrays_by_name(models: ModelServer, tmp_path: Path) -> None:
    arrays = {"ids": np.array([2**53 + 1, 3]), "mask": np.array([0, 1])}
    with Client(models.url, "sum") as client:
        assert client.predict(arrays).json()["result"]["text"] == "3"
    np.savez(tmp_path / "body.npz", ids=arrays["ids"], mask=arrays["mask"])
    run_dir = models.served.run_dir
    command = [*COMMAND, "predict", str(tmp_path / "body.npz"), "--model=sum", f"--run-dir={run_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {"result": {"total": 3.0, "text": "3"}}
