"""`smartbatch stress` as a user runs it: a whole run, a killed server, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from smartbatch.remote.scrape import scrape, summary
from smartbatch.server.running import RunningServer
from smartbatch_load.account.series import Second

from tests import golden

START_LIMIT_S = 180.0
BODY = '{"data": [1, 2, 3, 4]}'


@pytest.fixture(autouse=True)
def forwards_that_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the load takes no more of the processor than it must; measuring such a forward would tell nothing."""
    for name, value in {"TINY_SLEEP_S": "0.02", "SMARTBATCH_MICRO_BATCH": "8", "SMARTBATCH_COMPILE": "off"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "line.json"
    path.write_text(BODY, encoding="utf-8")
    return path


def command(out: Path, body: Path, *more: str) -> list[str]:
    """A stress run of the exact-answer model."""
    fixed = ["stress", "--model", "tiny", "--body", str(body), "--out", str(out)]
    return [sys.executable, "-m", "loadtest.cli", *fixed, *more]


def wait_for_requests(out: Path, process: subprocess.Popen[str]) -> None:
    """Until the run has written requests down."""
    deadline = time.monotonic() + START_LIMIT_S
    while not any((out / "raw").glob("requests-*.csv")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def spawn(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def those_using(folder: Path) -> list[psutil.Process]:
    """Living processes that were started for a run in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        about = " ".join(process.info["cmdline"] or []) + json.dumps(process.info["environ"] or {})
        ours = process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE
        if ours and str(folder) in about:
            found.append(process)
    return found


def wait_gone(folder: Path) -> list[psutil.Process]:
    """What still lives of a run after a grace that ends as soon as nothing does."""
    deadline = time.monotonic() + 30
    while (left := those_using(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def test_a_whole_run_agrees_with_the_server(tmp_path: Path, body: Path, model_store: Path) -> None:
    out = tmp_path / "out"
    arguments = command(out, body, "--model-store", str(model_store), "--duration", "6s")
    ended = subprocess.run([*arguments, "--users", "12", "--steps", "3"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr

    result = json.loads((out / "stress.json").read_text(encoding="utf-8"))
    totals, agreement = result["totals"], result["agreement"]
    assert result["ended"] == "completed"
    assert totals["failures"] == 0
    assert totals["requests"] > 12
    assert agreement["requests"]["server"] == totals["requests"]
    assert agreement["within_limit"], agreement
    assert totals["batches"] == agreement["batches"]["server"] >= totals["requests"] / 32
    assert totals["avg_batch_size"] == pytest.approx(totals["requests"] / totals["batches"])
    assert 0 < totals["p50_s"] <= totals["p95_s"] <= totals["p99_s"] <= totals["max_s"]
    assert sum(row["rps"] for row in result["series"]) == totals["requests"]
    assert max(row["users"] for row in result["series"]) == 12
    assert any(row["queue_depth"] is not None for row in result["series"])

    with (out / "stress.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(Second.__dataclass_fields__)
    assert len(rows) == len(result["series"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert page.count("src=") == 1
    assert "<link" not in page
    assert "<script" not in page
    assert (out / "performance_plot.png").read_bytes().startswith(b"\x89PNG")
    golden.check("stress", {"files": golden.files_in(out), "keys": golden.keys_of(result)})
    assert wait_gone(out) == []


def test_two_generator_processes_on_a_server_of_the_users_own(
    tmp_path: Path, body: Path, start: Callable[..., RunningServer]
) -> None:
    server = start(tiny_workers=1)
    before = summary(scrape(server.metrics_url), "tiny")["total_requests"]
    out = tmp_path / "out"
    urls = ["--url", server.inference_url, "--management-url", server.management_url]
    more = ["--metrics-url", server.metrics_url, "--duration", "3s", "--users", "6", "--processes", "2"]
    ended = subprocess.run(command(out, body, *urls, *more), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((out / "stress.json").read_text(encoding="utf-8"))
    after = summary(scrape(server.metrics_url), "tiny")["total_requests"]
    solo = 1
    assert after - before == result["totals"]["requests"] + solo
    assert server.is_alive
    assert result["generator"]["processes"] == 2
    assert result["agreement"]["within_limit"], result["agreement"]
    # Both took part; whom Locust gives the users is its own: on a starved machine all of them to one.
    assert len(list((out / "raw").glob("ticks-*.csv"))) == 2


def test_a_killed_server_ends_the_run_and_keeps_the_data(tmp_path: Path, body: Path, model_store: Path) -> None:
    out = tmp_path / "out"
    store = ["--model-store", str(model_store)]
    process = spawn(command(out, body, *store, "--duration", "10m", "--users", "8"))
    wait_for_requests(out, process)
    java = [p for p in those_using(out) if "java" in p.name()]
    assert len(java) == 1
    java[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "is gone" in errors
    result = json.loads((out / "stress.json").read_text(encoding="utf-8"))
    assert result["ended"] == "server gone"
    assert result["totals"]["requests"] > 0
    assert result["series"]
    assert (out / "performance_plot.png").exists()
    assert wait_gone(out) == []


# tests/unit/loadtest/test_interrupt.py sends each signal to what hears them all alike.
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_the_data_and_leaves_nothing_behind(
    tmp_path: Path, body: Path, model_store: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = spawn(command(out, body, "--model-store", str(model_store), "--duration", "10m", "--users", "8"))
    wait_for_requests(out, process)
    process.send_signal(number)
    process.send_signal(number)  # the impatient press it twice
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    result = json.loads((out / "stress.json").read_text(encoding="utf-8"))
    assert result["ended"] == "interrupted"
    assert result["totals"]["requests"] > 0
    assert wait_gone(out) == []


@pytest.mark.parametrize("after_s", [1.5, pytest.param(5.0, marks=pytest.mark.slow)])
def test_ctrl_c_while_starting_leaves_nothing_behind(
    tmp_path: Path, body: Path, model_store: Path, after_s: float
) -> None:
    out = tmp_path / "out"
    process = spawn(command(out, body, "--model-store", str(model_store), "--duration", "10m"))
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert wait_gone(out) == []


def test_a_wrong_setting_is_named_before_anything_starts(tmp_path: Path, body: Path) -> None:
    arguments = command(tmp_path / "out", body, "--duration", "soon")
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "'soon'" in ended.stderr
    assert not (tmp_path / "out").exists()
