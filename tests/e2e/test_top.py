"""`smartbatch top` on a real server, from its metrics endpoint alone."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from smartbatch.remote.scrape import scrape
from smartbatch.server.running import RunningServer

TOP = [sys.executable, "-m", "loadtest.cli", "top"]


class Load:
    """One client that sends now and then until it is told to stop."""

    def __init__(self, url: str) -> None:
        self._url, self._done = url, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with requests.Session() as session:
            while not self._done.wait(0.05):
                session.post(self._url, json={"data": [1, 2, 3, 4]}, timeout=60)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def predictions(server: RunningServer) -> str:
    return f"{server.inference_url}/predictions/tiny"


def wait_for_a_latency(server: RunningServer) -> None:
    deadline = time.monotonic() + 120
    while not scrape(server.metrics_url).total("smartbatch_request_seconds_count", outcome="success", model="tiny"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.mended  # it knows latencies
def test_once_as_json(running_server: RunningServer) -> None:
    with Load(predictions(running_server)):
        wait_for_a_latency(running_server)  # the first request loads the model, and may take longer than one look
        arguments = [*TOP, "--once", "--json", "--interval", "2", "--url", running_server.metrics_url]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    (model,) = json.loads(done.stdout)["models"]
    assert model["model"] == "tiny"
    assert model["rps"] > 0
    assert model["errors_per_s"] == 0
    assert model["avg_batch_size"] == pytest.approx(1, rel=0.2)  # a look may fall between two counters
    assert 0 < model["p50_s"] <= model["p95_s"]
    assert model["queue_depth"] is not None
    assert set(model["stage_s"]) == {"decode", "stack", "forward", "encode"}


def test_once_as_a_table_and_a_picture(running_server: RunningServer, tmp_path: Path) -> None:
    requests.post(predictions(running_server), json={"data": [1, 2, 3, 4]}, timeout=60)
    picture = tmp_path / "top.png"
    arguments = [*TOP, "--once", "--interval", "0.3", "--url", running_server.metrics_url, "--picture", str(picture)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "tiny" in done.stdout
    assert "req/s" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_live_on_a_terminal_until_ctrl_c(running_server: RunningServer, tmp_path: Path) -> None:
    requests.post(predictions(running_server), json={"data": [1, 2, 3, 4]}, timeout=60)
    terminal, inside = pty.openpty()
    arguments = [*TOP, "--interval", "0.2", "--url", running_server.metrics_url]
    process = subprocess.Popen(arguments, stdin=inside, stdout=inside, stderr=inside, start_new_session=True)
    os.close(inside)
    shown = b""
    while shown.count(b"avg batch") < 2:  # drawn, then drawn again
        shown += os.read(terminal, 65536)
    process.send_signal(signal.SIGINT)
    drain = threading.Thread(target=_drain, args=(terminal,))
    drain.start()
    assert process.wait(timeout=60) == 0
    drain.join()
    os.close(terminal)
    assert b"Traceback" not in shown


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        return  # the other side closed


def test_nobody_listening_is_said_with_exit_code_3() -> None:
    done = subprocess.run([*TOP, "--url", "http://127.0.0.1:1/metrics"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "no metrics at http://127.0.0.1:1/metrics" in done.stderr


@pytest.mark.parametrize("name", ["stress", "study", "capacity", "top"])
def test_smartbatch_knows_the_command(name: str) -> None:
    command = [sys.executable, "-m", "smartbatch.cli", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"})
    assert "Usage" in done.stdout
