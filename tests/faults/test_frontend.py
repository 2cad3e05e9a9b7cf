"""The frontend killed, and its disk full."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from smartbatch.server.running import RunningServer

from tests.conftest import fork_server_environment
from tests.faults.serving import Load, Service, good

LOGS = ("access_log.log", "model_log.log", "ts_log.log")

Start = Callable[..., RunningServer]


def register(server: RunningServer) -> Service:
    with server.management() as client:
        client.register("hostile.mar", "hostile", batch_size=4, max_batch_delay_ms=5, workers=1)
        client.wait_ready("hostile", 120)
    service = Service(server, "hostile")
    service.load_all_workers()
    return service


def test_the_frontend_killed_under_load(start_faulty: Start, tmp_path: Path, figures: dict[str, Any]) -> None:
    run_dir = tmp_path / "run"
    service = register(start_faulty(run_dir))
    frontend = psutil.Process(service.server.pid)
    workers = frontend.children(recursive=True)
    with Load(service, 4) as load:
        load.wait_for(40)
        os.kill(frontend.pid, signal.SIGKILL)
        killed = time.monotonic()
        load.wait_for(4)
    assert load.statuses().keys() <= {200, 0}  # right answers, then broken and refused connections: nothing hangs
    while service.server.is_alive:  # its connections break before its memory is freed and it is gone
        assert time.monotonic() < killed + 60
        time.sleep(0.05)
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive  # no worker outlives its frontend
    orphans_s = time.monotonic() - killed

    # The same folder: what the dead one left does not hinder the next.
    service = register(start_faulty(run_dir, **fork_server_environment()))
    assert service.post(good(5)).is_right
    figures["frontend killed by SIGKILL"] = {
        "workers ended by themselves": len(gone),
        "after, s": round(orphans_s, 1),
        "started again and serving, s after the kill": round(time.monotonic() - killed, 1),
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_for_logs(start_faulty: Start, tmp_path: Path, figures: dict[str, Any]) -> None:
    logs = tmp_path / "run" / "logs"
    logs.mkdir(parents=True)
    for name in LOGS:
        (logs / name).symlink_to("/dev/full")  # every write fails: no space left on device
    service = register(start_faulty(tmp_path / "run", **fork_server_environment()))
    with Load(service, 4) as load:
        load.wait_for(400)
    assert all(reply.is_right for reply in load.replies), load.statuses()
    assert len(service.worker_pids()) == 1
    figures["no space for logs"] = {"requests": len(load.replies), "failed": 0}
