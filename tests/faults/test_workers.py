"""Workers that die, hang, or cannot load: what clients see meanwhile, and that all is well afterwards."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file
from smartbatch.server.running import RunningServer

from tests.faults.conftest import Serve
from tests.faults.models.hostile import HANGS, SLEEPS
from tests.faults.serving import TIMEOUT_S, Load, Service, good

BATCH_SIZE = 4


def sleeping(number: float) -> list[float]:
    """A good item whose batch takes 50 ms."""
    return [SLEEPS, 0.05, number, 0.0]


def test_sigkill_of_a_worker_under_load(serve: Serve, figures: dict[str, Any]) -> None:
    with serve(workers=2, batch_size=BATCH_SIZE) as service:
        pids = service.worker_pids()
        victim = min(pids)
        with Load(service, 16, sleeping) as load:
            load.wait_for(64)
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            load.wait_for(64)
            back_s = service.wait_workers(lambda now: len(now) == 2 and victim not in now)
            load.wait_for(64)
        failed = [reply for reply in load.replies if not reply.is_right]
        # Only the batch the victim had in hand is lost, and each of its requests is told so.
        assert len(failed) <= BATCH_SIZE, failed
        assert {reply.status for reply in failed} <= {500, 507}, failed
        served = [reply for reply in load.replies if reply.is_right and reply.ended > killed]
        figures["worker killed by SIGKILL, 2 workers, 16 clients"] = {
            "requests": len(load.replies),
            "failed": sorted(reply.status for reply in failed),
            "longest wait for an answer after the kill, s": round(max(reply.seconds for reply in served), 2),
            "both workers READY again after, s": round(back_s, 1),
        }


def test_queued_requests_outlive_the_only_worker(serve: Serve, figures: dict[str, Any]) -> None:
    with serve(batch_size=BATCH_SIZE) as service:
        (victim,) = service.worker_pids()
        with Load(service, 16, sleeping) as load:
            load.wait_for(32)
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            service.wait_workers(lambda now: bool(now - {victim}))
            load.wait_for(32)
        failed = [reply for reply in load.replies if not reply.is_right]
        # 507 where the frontend saw the exit status of SIGKILL in time: it takes that for a lack of memory.
        assert {reply.status for reply in failed} <= {500, 503, 507}, failed
        in_hand = [reply for reply in failed if reply.status != 503]
        assert len(in_hand) <= BATCH_SIZE, failed
        waited = [
            reply for reply in load.replies if reply.is_right and reply.ended - reply.seconds < killed < reply.ended
        ]
        figures["the only worker killed by SIGKILL, 16 clients"] = {
            "failed in the batch it had": len(in_hand),
            "queued, and served by its successor": len(waited),
            "refused 503 meanwhile": len(failed) - len(in_hand),
        }


def gathered(service: Service, count: int) -> None:
    """Wait until so many requests are in a worker thread's hands, which waits for more before it hands them over."""
    with service.server.management() as client:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            owed = client.drain_state()
            if (owed.answering, owed.queued) == (count, 0):
                return
            assert time.monotonic() < deadline, owed
            time.sleep(0.01)


@pytest.mark.mended
def test_a_batch_being_gathered_outlives_its_worker(serve: Serve) -> None:
    """The worker never saw it: another gets it, in the order it came, in TorchServe's own frontend nobody."""
    with serve(batch_size=BATCH_SIZE, max_batch_delay_ms=1000) as service:
        (victim,) = service.worker_pids()
        with Load(service, BATCH_SIZE - 1, good, once=True) as load:
            gathered(service, BATCH_SIZE - 1)
            os.kill(victim, signal.SIGKILL)
        assert all(reply.is_right for reply in load.replies), load.replies
        assert victim not in service.worker_pids()


@pytest.mark.mended
def test_workers_taken_away_by_torchserve_cost_no_request(serve: Serve) -> None:
    with serve(workers=2, batch_size=BATCH_SIZE, max_batch_delay_ms=100) as service:
        with service.server.management() as client, Load(service, 16, sleeping) as load:
            for _ in range(6):
                load.wait_for(16)
                client.scale(service.name, 1)
                load.wait_for(16)
                client.scale(service.name, 2)
                service.wait_workers(lambda now: len(now) == 2)
        assert all(reply.is_right for reply in load.replies), load.statuses()


@pytest.mark.mended
def test_a_batch_in_hand_is_refused_with_the_rest_where_no_worker_is_left(serve: Serve) -> None:
    with serve(batch_size=BATCH_SIZE, max_batch_delay_ms=1000) as service, service.server.management() as client:
        with Load(service, 2, good, once=True) as load:
            gathered(service, 2)
            client.scale(service.name, 0)
        assert [(reply.status, reply.code) for reply in load.replies] == [(503, "no_worker")] * 2
        client.scale(service.name, 1)
        client.wait_ready(service.name)
        assert service.post(good(1)).is_right


def test_a_model_that_hangs(serve: Serve, figures: dict[str, Any]) -> None:
    with serve(archive="impatient", workers=2, batch_size=1) as service:
        pids = service.worker_pids()
        with Load(service, 1, lambda _: [HANGS, 0.0, 0.0, 0.0], once=True) as hanging:
            time.sleep(0.5)
            with Load(service, 4, pause_s=0.1) as load:
                load.wait_for(100)
                while not hanging.replies:
                    load.wait_for(10)
        assert all(reply.is_right for reply in load.replies), load.statuses()
        first = hanging.replies[0]
        assert first.status == 500, first
        back_s = service.wait_workers(lambda now: len(now) == 2)
        assert len(service.worker_pids() & pids) <= 1
        figures["a model that hangs"] = {
            "status": first.status,
            "after, s": round(first.seconds, 1),
            "others answered meanwhile": len(load.replies),
            "worker READY again after, s": round(back_s, 1),
        }


@pytest.mark.parametrize("damage", ["removed", "corrupted", "of another model"])
def test_weights_lost_before_the_lazy_load(
    serve: Serve, shared_server: RunningServer, figures: dict[str, Any], damage: str
) -> None:
    with serve(warm=False) as service:
        (weights,) = _weights_of(service)
        kept = weights.read_bytes()
        if damage == "removed":
            weights.unlink()
        elif damage == "corrupted":
            weights.write_bytes(kept[: len(kept) // 2])
        else:
            state = load_file(weights)
            state["other"] = state.pop("bias")
            weights.unlink()
            save_file(state, weights)
        pids = service.worker_pids()
        for _ in range(3):
            reply = service.post(good(1))
            assert (reply.status, reply.code) == (503, "model_unavailable"), reply
            assert weights.name in reply.body["error"]["message"]
            assert reply.headers["Retry-After"] == "1"
        weights.write_bytes(kept)
        assert service.post(good(1)).is_right
        assert service.worker_pids() == pids  # no crash, no restart
        figures.setdefault("weights lost before the lazy load", {})[damage] = "503, then 200 when back; same worker"


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_the_fork_server_killed_under_load(serve: Serve, figures: dict[str, Any]) -> None:
    """No request notices; a worker that is started later starts by itself, and the log says so.

    The last of the faults: all workers that this server has from then on import PyTorch by themselves.
    """
    with serve(batch_size=BATCH_SIZE) as service:
        (first,) = service.worker_pids()
        fork_server = psutil.Process(first).parent()
        assert fork_server is not None
        assert "serve" in fork_server.cmdline()
        with Load(service, 16, sleeping) as load:
            load.wait_for(32)
            fork_server.kill()
            load.wait_for(64)
        assert all(reply.is_right for reply in load.replies)
        os.kill(first, signal.SIGKILL)
        service.wait_workers(lambda now: bool(now - {first}))
        with Load(service, 4, good) as load:
            load.wait_for(8)
        assert all(reply.is_right for reply in load.replies)
        logs = "".join(path.read_text(errors="replace") for path in (service.server.run_dir / "logs").glob("*.log"))
        assert "this worker starts without the fork server" in logs


def _weights_of(service: Service) -> list[Path]:
    """The file the worker will read: its folder is the newest that the frontend unpacked."""
    folders = sorted((Path(service.server.state.tmp_dir) / "models").iterdir(), key=lambda path: path.stat().st_mtime)
    return list(folders[-1].glob("*.safetensors"))
