"""Retuning under load loses nothing, leaves nothing, and rolls back what does not come up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from smartbatch.errors import ModelNotReadyError, WorkerStartError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.retune.canary import Canary, CanaryError
from smartbatch.retune.run import RetuneReport, RetuneSettings, retune
from smartbatch.retune.store import RetuneStore
from smartbatch.server.running import RunningServer

NUM_CLIENTS = 32
PAUSE_S = 0.8
"""Between an answer and a client's next request: without it they take the cores that the new version needs to start."""
pytestmark = pytest.mark.timeout(1200)


class Clients:
    """Closed-loop clients, half of them on kept-alive connections, every answer checked."""

    def __init__(self, server: RunningServer, count: int = NUM_CLIENTS, pause_s: float = PAUSE_S) -> None:
        self.outcomes: Counter[str] = Counter()
        self.batch_sizes: Counter[str] = Counter()
        self._url = f"{server.inference_url}/predictions/tiny"
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def wait_for(self, count: int) -> None:
        wanted = self.outcomes["right"] + count
        deadline = time.monotonic() + 120
        while self.outcomes["right"] < wanted:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                send = session if number % 2 else requests
                try:
                    reply = send.post(self._url, json={"data": [float(number)] * 4}, timeout=120)
                except requests.RequestException as error:
                    self.outcomes[repr(error)] += 1
                    continue
                right = reply.status_code == 200 and reply.json() == {"result": [2.0 * number + 1] * 4}
                self.outcomes["right" if right else f"{reply.status_code} {reply.text}"] += 1
                self.batch_sizes[reply.headers.get("X-SmartBatch-Batch-Size", "")] += 1
                self._stop.wait(self._pause_s)


def endpoints(server: RunningServer) -> Endpoints:
    return Endpoints.of_state(server.state)


def run(server: RunningServer, canary: Canary | None = None, **fields: Any) -> RetuneReport:
    where = endpoints(server)
    fields = {"ready_timeout_s": 280.0} | fields  # a starved machine takes minutes to import torch
    canary = canary or Canary(inference_url=server.inference_url)
    return retune(where, RetuneSettings(model="tiny", **fields), Path(server.state.model_store), canary)


def stands_in_for_a_worker(process: psutil.Process) -> bool:
    """Whether a process is one that TorchServe knows as a worker; it ends with the one that runs the model."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "stand-in" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def footprint(server: RunningServer) -> dict[str, Any]:
    """All a retune might leave behind."""
    with server.management() as client:
        versions = client.versions("tiny")
    workers = [child for child in psutil.Process(server.pid).children() if stands_in_for_a_worker(child)]
    store = Path(server.state.model_store)
    return {
        "versions": len(versions),
        "workers": len(workers),
        "folders in the store": len([path for path in store.iterdir() if path.is_dir()]),
        "other files in the store": sorted(path.name for path in store.iterdir() if not path.is_dir()),
        "unpacked models": len(list((Path(server.state.tmp_dir) / "models").iterdir())),
        "sockets": len(list(Path(server.state.tmp_dir).glob(".ts.sock*"))),
    }


def assert_left(server: RunningServer, **expected: Any) -> None:
    """TorchServe tells workers to end and does not wait for it; nor do we, but they must be gone in the end."""
    deadline = time.monotonic() + 60
    while any(footprint(server)[name] != value for name, value in expected.items()):
        assert time.monotonic() < deadline, (footprint(server), expected)
        time.sleep(0.1)


@pytest.fixture
def server(start: Any, tmp_path: Path, tiny_archive: Path) -> RunningServer:
    store = tmp_path / "store"
    store.mkdir()
    (store / "tiny.mar").symlink_to(tiny_archive)
    running: RunningServer = start(tiny_workers=1, model_store=store)
    return running


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_retunes_in_a_row_under_32_clients(server: RunningServer, count: int) -> None:
    with Clients(server, pause_s=PAUSE_S if count == 2 else 0) as clients:
        clients.wait_for(50)
        for number in range(count):
            batch_size, delay_ms, workers = (16, 3, 2) if number % 2 == 0 else (4, 1, 1)
            report = run(server, batch_size=batch_size, max_batch_delay_ms=delay_ms, workers=workers)
            assert report.changed
            assert report.canary == "canary request answered 200"
            with server.management() as client:
                status = client.describe("tiny")
            assert (status.batch_size, status.max_batch_delay_ms, len(status.workers)) == (
                batch_size,
                delay_ms,
                workers,
            )
            clients.batch_sizes.clear()
            clients.wait_for(200 if count > 2 else 100)
            assert max(int(size) for size in clients.batch_sizes) <= max(batch_size, 8)
    assert set(clients.outcomes) == {"right"}, clients.outcomes
    nothing_else = {
        "versions": 1,
        "workers": workers,
        "folders in the store": 1,
        "other files in the store": ["tiny.mar"],
        "unpacked models": 1,
        "sockets": workers,
    }
    assert_left(server, **nothing_else)
    print(f"{count} retunes, {clients.outcomes['right']} requests, 0 failed; left: {footprint(server)}")
    server.stop(grace_s=10)
    assert [path.name for path in Path(server.state.model_store).iterdir()] == ["tiny.mar"]


def test_what_goes_wrong_is_rolled_back(server: RunningServer, tmp_path: Path) -> None:
    before = footprint(server)
    store = Path(server.state.model_store)
    broken_body = tmp_path / "broken.json"
    broken_body.write_text("[")
    with Clients(server, 4) as clients:
        # The same settings again: nothing to do.
        assert not run(server, batch_size=8).changed
        # A canary that both versions refuse tells nothing against the new one.
        assert run(server, batch_size=4, canary=Canary(inference_url=server.inference_url, file=broken_body)).changed
        run(server, batch_size=8)
        before |= {"folders in the store": 1}
        # No answer to the canary at all.
        with pytest.raises(CanaryError, match="no answer"):
            run(server, batch_size=4, canary=Canary(inference_url="http://127.0.0.1:9"))
        assert_left(server, **before)
        # An archive whose workers cannot start.
        (served,) = RetuneStore(store).copies()
        with zipfile.ZipFile(tmp_path / "empty.mar", "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", (served[0] / "MAR-INF" / "MANIFEST.json").read_bytes())
        handler = served[0] / "smartbatch_handler.py"
        kept = handler.read_bytes()
        # Removing the file would not do: an editable installation has another one on the path.
        handler.write_text('raise RuntimeError("broken on purpose")\n')
        with pytest.raises(WorkerStartError, match="broken on purpose"):
            run(server, batch_size=4)
        handler.write_bytes(kept)
        assert_left(server, **before)
        with server.management() as client:
            assert client.describe("tiny").batch_size == 8
        clients.wait_for(20)
    assert set(clients.outcomes) == {"right"}, clients.outcomes


def test_two_at_once_take_turns_and_a_killed_one_is_cleaned_up_after(server: RunningServer) -> None:
    command = [sys.executable, "-m", "smartbatch.cli", "retune", "tiny", "--run-dir", str(server.run_dir)]
    command += ["--timeout", "280"]
    with Clients(server, 8) as clients:
        both = [
            subprocess.Popen([*command, "--batch-size", str(size)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for size in (5, 6)
        ]
        for process in both:
            said, _ = process.communicate(timeout=900)
            assert process.returncode == 0, said.decode()
        assert footprint(server)["versions"] == 1
        killed = subprocess.Popen([*command, "--batch-size", "7"], stderr=subprocess.PIPE)
        assert killed.stderr is not None
        for line in killed.stderr:
            if b"starting" in line:
                os.kill(killed.pid, signal.SIGKILL)
        killed.wait(60)
        killed.stderr.close()
        assert run(server, batch_size=9).changed
        clients.wait_for(20)
    assert set(clients.outcomes) == {"right"}, clients.outcomes
    assert_left(server, versions=1, workers=1, **{"folders in the store": 1})


def test_a_server_we_did_not_start(server: RunningServer, tmp_path: Path) -> None:
    foreign = Endpoints(inference_url=server.inference_url, management_url=server.management_url)
    canary = Canary(inference_url=None)
    settings = RetuneSettings(model="tiny", batch_size=3, ready_timeout_s=280)
    report = retune(foreign, settings, Path(server.state.model_store), canary)
    assert report.changed
    assert "no canary request" in report.canary
    with server.management() as client:
        assert client.describe("tiny").batch_size == 3
        with pytest.raises(ModelNotReadyError):
            client.describe("tiny", "1.0")
    run_cli = [sys.executable, "-m", "smartbatch.cli", "retune", "tiny", "--batch-size", "4"]
    said = subprocess.run(
        [*run_cli, "--management-url", server.management_url], capture_output=True, text=True, timeout=120, check=False
    )
    assert said.returncode == 2
    assert "--model-store" in said.stderr


@pytest.mark.slow  # half a minute; tests/unit has the measuring
def test_tune_measures_again_and_says_what_it_found(server: RunningServer) -> None:
    command = [sys.executable, "-m", "smartbatch.cli", "tune", "tiny", "--forward", "--run-dir", str(server.run_dir)]
    with Clients(server, 4) as clients:
        clients.wait_for(20)
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        clients.wait_for(20)
        again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=300)
    assert set(clients.outcomes) == {"right"}, clients.outcomes
    assert "at once" in shown.stdout
    tuned = json.loads(again.stdout)
    times = tuned["after"]["micro_batch_ms_per_item"]["4"]
    assert {"1", "2", "4", "8"} <= set(times)
    assert times != tuned["before"]["micro_batch_ms_per_item"]["4"], "measured once more, not read from a file"
    assert tuned["after"]["micro_batch"]["4"] in {int(size) for size in times}
