"""`smartbatch capacity` against a server whose speed is known: each forward takes 100 ms."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from smartbatch.server.running import RunningServer

from tests import golden

SLEEP_S = 0.1
BATCH_SIZE = 2


@pytest.fixture(scope="module")
def slow(start: Callable[..., RunningServer]) -> RunningServer:
    """One worker, batches of two: at most 20 requests/s, by its sleep alone."""
    env = {"TINY_SLEEP_S": str(SLEEP_S), "SMARTBATCH_MICRO_BATCH": str(BATCH_SIZE)}
    return start(tiny_workers=1, batch_size=BATCH_SIZE, env=env)


def run(out: Path, server: RunningServer, *more: str) -> subprocess.CompletedProcess[str]:
    body = out.parent / "line.json"
    body.write_text('{"data": [1, 2, 3, 4]}', encoding="utf-8")
    urls = ["--url", server.inference_url, "--management-url", server.management_url]
    fixed = ["capacity", "--model", "tiny", "--body", str(body), "--out", str(out), "--warmup", "0"]
    arguments = [sys.executable, "-m", "loadtest.cli", *fixed, *urls, "--metrics-url", server.metrics_url, *more]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_the_knee_lies_below_what_the_server_can_do(tmp_path: Path, slow: RunningServer) -> None:
    out = tmp_path / "out"
    arguments = ["--slo-p95-ms", "2000", "--duration", "1.5s", "--start-rate", "10", "--tolerance", "0.4"]
    ended = run(out, slow, *arguments)
    result = json.loads((out / "capacity.json").read_text(encoding="utf-8"))
    assert ended.returncode == 0, ended.stderr
    knee = result["knee"]["knee"]
    assert 0 < knee < 3 * BATCH_SIZE / SLEEP_S  # a short run may ride over the limit on its queue
    assert result["knee"]["bounded"]
    assert f"knee: {knee:.3g} requests/s" in ended.stderr
    held = [row for row in result["rows"] if row["rate"] == knee]
    assert len(held) >= 2
    assert all(row["ok"] and row["errors"] == 0 for row in held)
    assert all(row["p95_s"] >= SLEEP_S for row in result["rows"] if row["p95_s"] is not None)
    with (out / "capacity.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(result["rows"])
    assert (out / "capacity.png").read_bytes().startswith(b"\x89PNG")
    golden.check("capacity", {"files": golden.files_in(out), "keys": golden.keys_of(result)})


@pytest.mark.slow  # tests/unit/loadtest/test_knee.py has it
def test_an_objective_nobody_can_meet_has_no_knee(tmp_path: Path, slow: RunningServer) -> None:
    out = tmp_path / "out"
    arguments = ["--slo-p95-ms", "50", "--duration", "1s", "--start-rate", "2", "--max-rate", "4"]
    ended = run(out, slow, *arguments)
    assert ended.returncode == 1
    assert "no rate tried kept p95 within 50 ms" in ended.stderr
    assert json.loads((out / "capacity.json").read_text(encoding="utf-8"))["knee"]["knee"] is None


def test_nobody_listening_is_said_at_once(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "loadtest.cli", "capacity", "--url", "http://127.0.0.1:1"]
    ended = subprocess.run([*arguments, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "no server answers at http://127.0.0.1:1" in ended.stderr


def test_a_killed_server_ends_the_search_and_keeps_the_rates(
    tmp_path: Path, start: Callable[..., RunningServer]
) -> None:
    server = start(tiny_workers=1)
    out = tmp_path / "out"
    body = tmp_path / "line.json"
    body.write_text('{"data": [1, 2, 3, 4]}', encoding="utf-8")
    fixed = ["capacity", "--model", "tiny", "--body", str(body), "--out", str(out), "--warmup", "0"]
    urls = ["--url", server.inference_url, "--management-url", server.management_url]
    arguments = [*fixed, *urls, "--metrics-url", server.metrics_url, "--duration", "2s", "--start-rate", "2"]
    # An objective within which a busy machine's generator counts as punctual: its lateness ends a search, too.
    arguments += ["--max-rate", "4", "--slo-p95-ms", "20000"]
    process = subprocess.Popen([sys.executable, "-m", "loadtest.cli", *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "capacity.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    psutil.Process(server.pid).kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "the server is gone" in errors
    result = json.loads((out / "capacity.json").read_text(encoding="utf-8"))
    assert result["ended"] == "server gone"
    assert result["rows"]
