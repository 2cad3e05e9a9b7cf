"""The bench runs: wrk against a real server, the handler in this process. No figure is judged."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from smartbatch.server.running import RunningServer

from bench import gpu_suite
from bench.experiments import gpu
from bench.figures import render
from bench.figures.measure import PROJECT, STEPS, measure
from bench.load import Body, run_wrk
from bench.processes import Process, pause, resume, tree


def test_the_in_process_bench_runs_on_the_cpu(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--batch", "2", "--side", "32", "--seconds", "0.05", "--out", str(tmp_path)]
    assert gpu.main(arguments) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["device"] == "cpu"
    assert result["ratios"]["batched_over_single"] > 0
    assert set(result["handler_stage_ms_per_batch"]) == {"decode", "stack", "forward", "encode"}


def test_the_gpu_suite_writes_each_line_as_it_comes(tmp_path: Path) -> None:
    """On the CPU and at its smallest; the handler's part is that of the bench above."""
    arguments = ["--device", "cpu", "--quick", "--only", "slots", "decode", "forward", "--out", str(tmp_path)]
    assert gpu_suite.main(arguments) == 0
    rows = [json.loads(line) for line in (tmp_path / "gpu_suite.jsonl").read_text().splitlines()]
    assert [row["part"] for row in rows[:4]] == ["machine", "slots", "slots", "slots"]
    assert all(row["images_per_s"] > 0 for row in rows[1:])
    assert (tmp_path / "gpu_suite.png").read_bytes().startswith(b"\x89PNG")


def test_without_time_it_says_what_it_left_out(tmp_path: Path) -> None:
    arguments = [
        "--device",
        "cpu",
        "--quick",
        "--only",
        "handler",
        "forward",
        "--budget-s",
        "0",
        "--out",
        str(tmp_path),
    ]
    assert gpu_suite.main(arguments) == 0
    _, *rows = [json.loads(line) for line in (tmp_path / "gpu_suite.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {"handler", "forward"}
    assert {row["left_out"] for row in rows} == {"no time was left"}


@pytest.mark.slow  # what is rendered from measured data, tests/unit/test_figures.py tests
@pytest.mark.timeout(900)  # several processes that import torch, on a machine that may be busy
def test_figures_are_measured_and_put_into_the_documents(tmp_path: Path) -> None:
    """Two of the steps of `make figures`, at their smallest: a compiler agrees with eager, and the forward is timed."""
    arguments = {
        "agreement": ("--images", "2", "--batch", "2", "--only", "folded"),
        "forward": ("--seconds", "0.01", "--sizes", "1", "--only", "eager"),
    }
    steps = [dataclasses.replace(step, quick=arguments[step.name]) for step in STEPS if step.name in arguments]
    for page in render.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / page, tmp_path / page)
    measure(steps, tmp_path, quick=True)
    render.render(tmp_path)
    text = (tmp_path / "docs/performance.md").read_text(encoding="utf-8")
    assert "over 2 seeded images" in text
    assert "| eager, NCHW" in text
    folded = json.loads((tmp_path / "docs/bench/agreement.json").read_text())["variants"]["folded"]
    assert folded["top1_agreement"] == 1
    assert folded["largest_difference"] < 1e-4 * folded["largest_answer"]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_drives_a_real_server(running_server: RunningServer) -> None:
    body = Body("application/json", (b'{"data": [1, 2, 3, 4]}', b'{"data": [5, 6, 7, 8]}'))
    url = f"{running_server.inference_url}/predictions/tiny"
    # The first request loads the weights, which may take longer than wrk goes on.
    assert requests.post(url, json={"data": [1, 2, 3, 4]}, timeout=120).status_code == 200
    result = run_wrk(url, body, connections=4, seconds=1)
    assert result.num_ok > 0
    assert result.num_failed == 0
    assert result.requests_per_s > 0
    assert result.p95_ms >= result.p50_ms > 0


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_counts_failures(running_server: RunningServer) -> None:
    body = Body("application/json", (b'{"data": "no numbers"}',))
    result = run_wrk(f"{running_server.inference_url}/predictions/tiny", body, connections=2, seconds=1)
    assert result.num_ok == 0
    assert result.num_failed > 0


def test_a_paused_server_stands_still_and_continues(tmp_path: Path) -> None:
    count = tmp_path / "count"
    program = f"import time\nwhile True:\n open({str(count)!r}, 'a').write('x')\n time.sleep(0.01)"
    process = Process([sys.executable, "-c", program], {}, tmp_path / "log")
    try:
        _wait_for(lambda: count.exists() and count.stat().st_size > 2)
        pause(process.pid)
        _wait_for(lambda: all(p.status() == "stopped" for p in tree(process.pid)))
        size = count.stat().st_size
        assert count.stat().st_size == size
        resume(process.pid)
        _wait_for(lambda: count.stat().st_size > size)
    finally:
        process.stop()
    assert tree(process.pid) == []


@pytest.mark.slow  # it imports every library that is measured
def test_the_judge_explains_itself() -> None:
    command = [sys.executable, "-m", "bench.peers", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=True)
    assert "--quick" in done.stdout


def _wait_for(condition: object, timeout_s: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
