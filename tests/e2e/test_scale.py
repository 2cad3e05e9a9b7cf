"""Workers and models go without taking an accepted request with them, and without leaving anything behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from smartbatch.errors import ModelNotReadyError, UsageError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.retune.canary import Canary
from smartbatch.retune.run import marker_of_copy
from smartbatch.retune.scaling import ScaleTarget, scale, unregister
from smartbatch.retune.store import RetuneStore
from smartbatch.server.running import RunningServer

NUM_CLIENTS = 16
NOBODY = {"no_worker", "unknown_model", "draining"}
"""What the last answer says to a client."""
SLOW = {"TINY_SLEEP_S": "0.2", "SMARTBATCH_MICRO_BATCH": "2", "SMARTBATCH_COMPILE": "off"}
pytestmark = pytest.mark.timeout(900)


class Clients:
    """Closed-loop clients; each ends at the first answer that says there is nobody to serve it."""

    def __init__(self, server: RunningServer) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = f"{server.inference_url}/predictions/tiny"
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(NUM_CLIENTS)]

    def wait_for(self, count: int) -> None:
        """Wait for further right answers."""
        wanted = self.outcomes["right"] + count
        while self.outcomes["right"] < wanted:
            assert any(thread.is_alive() for thread in self._threads), self.outcomes
            time.sleep(0.01)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _run(self, number: int) -> None:
        with requests.Session() as session:
            while not self.stop.is_set():
                try:
                    reply = session.post(self._url, json={"data": [float(number)] * 4}, timeout=100)
                except requests.RequestException as error:
                    self.outcomes[repr(error)] += 1
                    return
                if reply.status_code == 200 and reply.json() == {"result": [2.0 * number + 1] * 4}:
                    self.outcomes["right"] += 1
                    continue
                nobody = reply.status_code in (404, 503) and reply.json()["error"]["code"] in NOBODY
                self.outcomes[str(reply.status_code) if nobody else reply.text] += 1
                return


@contextmanager
def clients_of(server: RunningServer) -> Iterator[Clients]:
    clients = Clients(server)
    clients.start()
    try:
        clients.wait_for(NUM_CLIENTS)
        yield clients
    finally:
        clients.stop.set()
        clients.join()


def target_of(server: RunningServer, version: str | None = None, **changed: Any) -> ScaleTarget:
    fields: dict[str, Any] = {
        "endpoints": Endpoints(
            inference_url=server.inference_url, management_url=server.management_url, state=server.state
        ),
        "model": "tiny",
        "version": version,
        "model_store": Path(server.state.model_store),
        "canary": Canary(inference_url=server.inference_url),
    }
    return ScaleTarget(**{**fields, **changed})


def folders(server: RunningServer) -> list[str]:
    return sorted(path.name for path in Path(server.state.model_store).iterdir() if path.is_dir())


@pytest.mark.mended  # who waits for a model without workers is answered
def test_fewer_workers_then_none_then_some_then_no_model(start: Any) -> None:
    server = start(tiny_workers=2, batch_size=2, env=SLOW)
    with clients_of(server) as clients:
        fewer = scale(target_of(server), 1)
        clients.wait_for(NUM_CLIENTS)
    assert set(clients.outcomes) == {"right"}, clients.outcomes
    assert len(fewer.workers) == 1

    with clients_of(server) as clients:
        none = scale(target_of(server), 0)
        clients.join()  # each has ended by itself: the frontend said 503
    assert set(clients.outcomes) == {"right", "503"}, clients.outcomes
    assert clients.outcomes["503"] == NUM_CLIENTS
    assert (none.workers, none.pending_requests) == ((), 0)

    some = scale(target_of(server), 1)
    assert (some.version, len(some.workers)) == (none.version, 1)

    with clients_of(server) as clients:
        removed = unregister(target_of(server))
        clients.join()
    assert set(clients.outcomes) <= {"right", "503", "404"}, clients.outcomes
    assert clients.outcomes["503"] + clients.outcomes["404"] == NUM_CLIENTS
    assert removed == [some.version]
    with server.management() as client:
        assert client.models() == []
        with pytest.raises(ModelNotReadyError):
            unregister(target_of(server))
    assert folders(server) == []
    assert server.stop().complete


def test_without_the_store_workers_go_in_a_quiet_moment_and_what_waits_is_answered(start: Any) -> None:
    server = start(tiny_workers=2, batch_size=2, env=SLOW)
    said: list[str] = []
    statuses: list[int] = []

    def send() -> None:
        url = f"{server.inference_url}/predictions/tiny"
        statuses.append(requests.post(url, json={"data": [1] * 4}, timeout=100).status_code)

    senders = [threading.Thread(target=send) for _ in range(NUM_CLIENTS)]
    for sender in senders:
        sender.start()
    with server.management() as client:
        while client.describe("tiny").pending_requests == 0:
            time.sleep(0.01)
    assert len(scale(target_of(server, model_store=None, say=said.append), 1).workers) == 1
    for sender in senders:
        sender.join(100)
    assert statuses == [200] * NUM_CLIENTS
    assert any("quiet moment" in line for line in said)
    assert unregister(target_of(server, model_store=None)) == ["1.0"]


def test_versions_go_one_by_one_and_the_default_last(start: Any) -> None:
    server = start(tiny_workers=1)
    store = RetuneStore(Path(server.state.model_store))
    with server.management() as client:
        copy = store.copy(
            "tiny.mar", "2.0", marker_of_copy(target_of(server).endpoints, client.describe("tiny"), store)
        )
        client.register(copy.name, "tiny", workers=1)
        client.wait_ready("tiny", version="2.0")

    with pytest.raises(UsageError, match=r"tiny 1\.0 is the default version: name no version to remove all 2"):
        unregister(target_of(server, "1.0"))
    assert unregister(target_of(server, "2.0")) == ["2.0"]
    assert folders(server) == []

    command = [sys.executable, "-m", "smartbatch.cli", "unregister", "tiny", "--json", f"--run-dir={server.run_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": "tiny", "versions": ["1.0"]}
    assert subprocess.run(command, capture_output=True, check=False).returncode == ModelNotReadyError.exit_code
