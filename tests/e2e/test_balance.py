"""deploy/haproxy-servers.cfg in front of several servers: they join, are killed and stop, and no request fails."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from smartbatch.remote.scrape import scrape
from smartbatch.server.ports import free_ports
from smartbatch.server.running import RunningServer
from smartbatch_worker.contract import metrics as names

from bench.processes import Process
from tests.conftest import StartServer
from tests.e2e.listening import wait_until_listens

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy-servers.cfg"
NUM_CLIENTS = 24
BATCH_SIZE = 4
FORWARD_S = 0.06
SLOW_S = 3 * FORWARD_S
"""Of a server with a third of the speed."""

pytestmark = [
    pytest.mark.mended,  # the checks ask for /readyz
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]


class Clients:
    """Each sends when the last answer is there, and checks it."""

    def __init__(self, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = f"{url}/predictions/tiny"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(float(n),)) for n in range(NUM_CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        wanted = self.outcomes.total() + count
        deadline = time.monotonic() + 120
        while self.outcomes.total() < wanted:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.01)

    def _run(self, number: float) -> None:
        right = {"result": [2 * number + 1] * 4}
        with requests.Session() as session:
            while not self._stop.is_set():
                try:
                    reply = session.post(self._url, json={"data": [number] * 4}, timeout=120)
                    is_right = reply.status_code == 200 and reply.json() == right
                    self.outcomes["right" if is_right else f"{reply.status_code} {reply.text[:200]}"] += 1
                except requests.RequestException as error:
                    self.outcomes[repr(error)] += 1


class Servers:
    """Three places, each with a server or without one."""

    def __init__(self, start: StartServer) -> None:
        self._start = start
        self.ports = free_ports(3)
        self.running: dict[int, RunningServer] = {}

    def join(self, place: int, forward_s: float = FORWARD_S) -> None:
        self.running[place] = self._start(
            inference_port=self.ports[place],
            tiny_workers=1,
            batch_size=BATCH_SIZE,
            env={"TINY_SLEEP_S": str(forward_s), "SMARTBATCH_MICRO_BATCH": str(BATCH_SIZE), "SMARTBATCH_LOAD": "eager"},
        )

    def kill(self, place: int) -> None:
        os.kill(self.running.pop(place).pid, signal.SIGKILL)

    def stop(self, place: int) -> None:
        self.running.pop(place).stop(grace_s=60)

    def wait_for_first_answer(self, place: int) -> None:
        """Until the proxy has found it ready, too."""
        deadline = time.monotonic() + 60
        while self.answered()[place] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def answered(self) -> dict[int, float]:
        """Answers of each with 200 so far."""
        return {
            place: scrape(server.metrics_url).total(names.HTTP_REQUESTS, status="200")
            for place, server in self.running.items()
        }


@contextmanager
def proxy(servers: Servers, log: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    env = {
        **os.environ,
        "BIND": f"127.0.0.1:{port}",
        **{f"SERVER{place + 1}": f"127.0.0.1:{number}" for place, number in enumerate(servers.ports)},
        "MAXCONN": str(2 * BATCH_SIZE),
        "CHECK_EVERY": "200ms",
    }
    process = Process(["haproxy", "-db", "-f", str(CONFIG)], env, log)
    try:
        wait_until_listens(port, log)
        deadline = time.monotonic() + 60
        url = f"http://127.0.0.1:{port}"
        while requests.post(f"{url}/predictions/tiny", json={"data": [1] * 4}, timeout=60).status_code != 200:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.stop()


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_servers_come_and_go_and_no_request_fails(start: StartServer, tmp_path: Path, rounds: int) -> None:
    servers = Servers(start)
    servers.join(0)
    servers.join(1, SLOW_S)
    with proxy(servers, tmp_path / "log") as url, Clients(url) as clients:
        for turn in range(rounds):
            if turn:
                servers.join(0)
                servers.join(1, SLOW_S)
                servers.stop(2)
            clients.wait_for(100)
            servers.join(2)
            servers.wait_for_first_answer(2)
            before = servers.answered()
            clients.wait_for(400)
            gained = {place: count - before[place] for place, count in servers.answered().items()}
            # Of two as fast as each other and one of a third, each fast one's share is 3 of 7: on a machine that does
            # something else besides, it is more than the slow one's.
            fair = 0.8 * 3 / 7 * sum(gained.values()) if rounds > 1 else gained[1]
            assert gained[2] >= fair, gained
            servers.kill(0)
            clients.wait_for(200)
            servers.stop(1)
            clients.wait_for(200)
    assert set(clients.outcomes) == {"right"}, clients.outcomes
