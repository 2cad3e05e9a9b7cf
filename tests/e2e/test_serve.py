"""`smartbatch serve` from start to stop, as a process."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from smartbatch.errors import StartupError
from smartbatch.remote.state import ServerState, read_state
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server

COMMAND = [sys.executable, "-m", "smartbatch.cli"]
PORTS = ["--inference-port=0", "--management-port=0", "--metrics-port=0"]
Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve(model_store: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start `smartbatch serve` on free ports; whatever it started is ended, by pid."""
    processes: list[subprocess.Popen[str]] = []

    def start(*args: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        command = [*COMMAND, "serve", f"--model-store={model_store}", "--model=tiny", "--workers=1", *PORTS]
        process = subprocess.Popen(
            [*command, f"--run-dir={tmp_path / 'run'}", *args],
            env={**os.environ, **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    try:
        jvm = read_state(tmp_path / "run").jvm()
    except Exception:
        return
    if jvm is not None:
        jvm.kill()


def wait_ready(run_dir: Path, process: subprocess.Popen[Any]) -> ServerState:
    while process.poll() is None:
        try:
            state = read_state(run_dir)
        except Exception:
            state = None
        if state is not None and state.ready:
            return state
        time.sleep(0.05)
    raise AssertionError(f"serve ended: {process.communicate()}")


def test_serves_prints_a_command_to_paste_and_stops_on_ctrl_c(serve: Serve, tmp_path: Path) -> None:
    process = serve(env={"MAX_BATCH_SIZE": "16", "MAX_WAIT_TIME": "0.0071"})
    state = wait_ready(tmp_path / "run", process)
    processes = [psutil.Process(state.pid), *psutil.Process(state.pid).children()]
    described = requests.get(f"{state.management_url}/models/tiny", timeout=10).json()[0]
    assert (described["batchSize"], described["maxBatchDelay"]) == (16, 7)

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "delay 7.1 ms becomes 7 ms" in said
    assert "Stopped" in said
    curl = shlex.split(next(line for line in said.splitlines() if "curl" in line))
    assert curl[:3] == ["curl", "-s", f"{state.inference_url}/predictions/tiny"]
    assert json.loads(curl[curl.index("-d") + 1]) == {"data": [0.5] * 4}
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    assert not Path(state.tmp_dir).exists()
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"config.properties", "logs"}


def test_detached_and_stopped_by_command(model_store: Path, tmp_path: Path) -> None:
    run_dir = f"--run-dir={tmp_path / 'run'}"
    args = [f"--model-store={model_store}", "--model=tiny", "--workers=1", *PORTS, run_dir]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "smartbatch.json").touch()  # what a machine that lost power may have left
    started = subprocess.run([*COMMAND, "serve", "--detach", *args], capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    assert "tiny is ready" in started.stderr
    state = read_state(tmp_path / "run")
    reply = requests.post(f"{state.inference_url}/predictions/tiny", json={"data": [1, 2, 3, 4]}, timeout=60)
    assert reply.json() == {"result": [3, 5, 7, 9]}

    stopped = subprocess.run([*COMMAND, "stop", "--json", run_dir], capture_output=True, text=True, check=False)

    assert stopped.returncode == 0, stopped.stderr
    report = json.loads(stopped.stdout)
    assert (report["pid"], report["complete"]) == (state.pid, True)
    # TorchServe's own frontend has no drain, and a stop says what that may cost.
    assert (report["remark"] == "") == (os.environ.get("SMARTBATCH_FRONTEND") != "stock")
    assert state.jvm() is None
    assert state.supervisor() is None
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"config.properties", "logs", "smartbatch.json.unreadable-1"}


def test_the_jvm_ends_with_its_supervisor_and_stop_tidies_up(serve: Serve, tmp_path: Path) -> None:
    process = serve()
    state = wait_ready(tmp_path / "run", process)
    jvm = psutil.Process(state.pid)
    workers = jvm.children()
    process.kill()
    process.wait()
    psutil.wait_procs([jvm, *workers], timeout=60)
    assert state.jvm() is None
    assert not any(worker.is_running() for worker in workers)

    stopped = subprocess.run(
        [*COMMAND, "stop", f"--run-dir={tmp_path / 'run'}"], capture_output=True, text=True, check=False
    )

    assert stopped.returncode == 3
    assert "tidied up" in stopped.stderr
    assert not Path(state.tmp_dir).exists()


def test_a_jvm_that_dies_ends_serve_with_a_message(serve: Serve, tmp_path: Path) -> None:
    process = serve()
    state = wait_ready(tmp_path / "run", process)
    psutil.Process(state.pid).kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "TorchServe stopped by itself" in said


def test_ctrl_c_while_workers_start(serve: Serve, tmp_path: Path) -> None:
    process = serve()
    while not (tmp_path / "run" / "smartbatch.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "smartbatch.json").exists()


@pytest.mark.parametrize("moment", ["while it waits", "once the state is written"])
def test_a_start_that_is_interrupted_leaves_nothing(
    tmp_path: Path, model_store: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run_dir, num_waits = tmp_path / "run", 0

    def wait() -> None:
        nonlocal num_waits
        num_waits += 1
        if moment == "while it waits" and num_waits == 3:
            raise KeyboardInterrupt

    if moment == "once the state is written":
        write = ServerState.write

        def write_and_raise(state: ServerState) -> None:
            write(state)
            raise KeyboardInterrupt

        monkeypatch.setattr(ServerState, "write", write_and_raise)
    settings = ServerSettings(
        model_store=model_store, run_dir=run_dir, inference_port=0, management_port=0, metrics_port=0
    )
    with pytest.raises(KeyboardInterrupt):
        start_server(settings, while_waiting=wait)
    assert num_waits >= 3
    assert {path.name for path in run_dir.iterdir()} == {"config.properties", "logs"}
    assert not any(str(run_dir) in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))


def test_two_servers_side_by_side(start: Any) -> None:
    servers = [start(tiny_workers=1), start(tiny_workers=1)]
    assert len({re.sub(r"\D", "", s.inference_url) for s in servers}) == 2
    for value, server in enumerate(servers):
        reply = requests.post(f"{server.inference_url}/predictions/tiny", json={"data": [value] * 4}, timeout=60)
        assert reply.json() == {"result": [2 * value + 1] * 4}
    servers[0].stop()
    assert not servers[0].is_alive
    reply = requests.post(f"{servers[1].inference_url}/predictions/tiny", json={"data": [1] * 4}, timeout=60)
    assert reply.status_code == 200


def test_a_bad_config_is_reported_with_its_reason(start: Any) -> None:
    with pytest.raises(StartupError, match=r"Invalid configuration: .*console\.log"):
        start(properties={"inference_address": "http://127.0.0.1:99999"})


def test_the_access_log_is_written_at_once(running_server: Any) -> None:
    log = running_server.run_dir / "logs" / "access_log.log"
    before = log.read_text().count("/predictions/tiny")
    requests.post(f"{running_server.inference_url}/predictions/tiny", json={"data": [1] * 4}, timeout=60)
    deadline = time.monotonic() + 10
    while log.read_text().count("/predictions/tiny") == before:
        assert time.monotonic() < deadline, "a lone request must reach the log without others pushing it out"
        time.sleep(0.01)
