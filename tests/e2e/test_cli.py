"""The commands against a running server: one of ours, and a TorchServe known by its addresses only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smartbatch.server.running import RunningServer

COMMAND = [sys.executable, "-m", "smartbatch.cli"]


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *args], input=stdin, capture_output=True, timeout=120, check=False)


def json_of(*args: str, stdin: bytes = b"") -> Any:
    result = run(*args, "--json", stdin=stdin)
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def run_dir(running_server: RunningServer) -> str:
    return f"--run-dir={running_server.run_dir}"


def test_predict_a_file_and_stdin(run_dir: str, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.array([1, 2, 3, 4], np.float32))
    answer = json_of("predict", str(file), "--model=tiny", run_dir)
    assert answer["answer"] == {"result": [3, 5, 7, 9]}
    assert answer["batch_size"] == 1
    plain = run("predict", "-", "--model=tiny", run_dir, stdin=b'{"data": [1, 2, 3, 4]}')
    assert json.loads(plain.stdout) == {"result": [3, 5, 7, 9]}


def test_predict_errors_have_exit_codes(run_dir: str) -> None:
    refused = run("predict", "-", "--model=tiny", run_dir, stdin=b'{"data": [1, 2')
    assert refused.returncode == 6
    assert refused.stderr.startswith(b"smartbatch: 400 ")
    unknown = run("predict", "-", "--model=nope", run_dir, stdin=b"[1]")
    assert unknown.returncode == 4


def test_status_shows_workers_and_what_they_hold(running_server: RunningServer, run_dir: str) -> None:
    status = json_of("status", run_dir)
    assert status["server"]["pid"] == running_server.pid
    (model,) = status["models"]
    assert (model["model_name"], model["version"], model["default"], model["ready"]) == ("tiny", "1.0", True, True)
    (worker,) = model["workers"]
    assert worker["handler"]["pid"] == worker["pid"]
    assert worker["handler"]["precision"] == "fp32"
    assert f"pid {running_server.pid}" in run("status", run_dir).stdout.decode()


def test_any_torchserve_by_address(running_server: RunningServer) -> None:
    status = json_of("status", f"--management-url={running_server.management_url}")
    assert status["server"]["pid"] is None
    assert status["models"][0]["model_name"] == "tiny"
    assert json_of("metrics", f"--url={running_server.metrics_url}")["total_requests"] >= 0


def test_register_scale_and_metrics(run_dir: str) -> None:
    second = json_of("register", "tiny.mar", "--name=second", "--batch-size=4", "--workers=1", run_dir)
    assert second == {"model": "second", "version": "1.0", "batch_size": 4, "max_batch_delay_ms": 10, "workers": 1}
    again = run("register", "tiny.mar", "--name=second", run_dir)
    assert again.returncode == 1
    assert b"already registered" in again.stderr
    assert json_of("scale", "second", "--workers=2", run_dir)["workers"] == 2
    for value in range(5):
        body = json.dumps({"data": [value] * 4}).encode()
        assert json_of("predict", "-", "--model=second", run_dir, stdin=body)["answer"] == {
            "result": [2 * value + 1] * 4
        }
    metrics = json_of("metrics", "--model=second", run_dir)
    assert (metrics["total_requests"], metrics["total_batches"], metrics["avg_batch_size"]) == (5, 5, 1.0)
    assert b"total_requests" in run("metrics", run_dir).stdout


def test_only_archives_in_the_store_can_be_registered(run_dir: str, tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1/x.mar", f"file://{tmp_path}/x.mar"):
        result = run("register", url, run_dir)
        assert result.returncode == 1
        assert b"does not match any allowed URL" in result.stderr
