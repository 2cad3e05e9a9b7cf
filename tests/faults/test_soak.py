"""200,000 requests: no growth in memory, files, threads or processes. `make soak`."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import psutil
import pytest
import requests

from tests.faults.conftest import Serve
from tests.faults.serving import Service

NUM_REQUESTS = int(os.environ.get("SOAK_REQUESTS", "200000"))
NUM_CLIENTS = 16
# Of a tenth of the requests, after which pools and caches are full, to the end.
MAX_GROWTH_MIB = 128
MAX_GROWTH_FILES = 32
MAX_GROWTH_THREADS = 32


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_soak(serve: Serve, figures: dict[str, Any]) -> None:
    with serve(workers=1, batch_size=32, max_batch_delay_ms=2) as service:
        start = time.monotonic()
        first_wrong = send(service, NUM_REQUESTS // 10)
        before = usage(service)
        first_wrong = first_wrong or send(service, NUM_REQUESTS - NUM_REQUESTS // 10)
        time.sleep(5)
        after = usage(service)
        assert first_wrong is None
        figures["soak"] = {
            "requests": NUM_REQUESTS,
            "wrong or failed": 0,
            "seconds": round(time.monotonic() - start),
            "after a tenth": before,
            "at the end": after,
        }
        for name, bound in (("MiB", MAX_GROWTH_MIB), ("files", MAX_GROWTH_FILES), ("threads", MAX_GROWTH_THREADS)):
            for process in before:
                growth = after[process][name] - before[process][name]
                assert growth <= bound, (process, name, before, after)
        assert before.keys() == after.keys()


def send(service: Service, count: int) -> str | None:
    """Send `count` requests over kept-alive connections; returns the first wrong answer."""
    wrong: list[str] = []

    def client(number: int) -> None:
        body, right = f'{{"data":[{number},1,2,3]}}', {"result": [2 * number + 1, 3, 5, 7]}
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(count // NUM_CLIENTS):
                reply = session.post(service.url, body, timeout=60)
                if reply.status_code != 200 or reply.json() != right:
                    wrong.append(f"{reply.status_code} {reply.text}")
                    return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong[0] if wrong else None


def usage(service: Service) -> dict[str, dict[str, int]]:
    """Of the frontend and of each worker of this model."""
    (worker,) = service.worker_pids()
    processes = {"frontend": service.server.pid, "worker": worker}
    return {name: _usage(psutil.Process(pid)) for name, pid in processes.items()}


def _usage(process: psutil.Process) -> dict[str, int]:
    return {
        "MiB": round(process.memory_info().rss / 2**20),
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }
