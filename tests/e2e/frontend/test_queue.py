"""Whoever waits for a worker that will not come, or no longer waits himself, costs no worker anything.

One server for all; the last test drains it.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from smartbatch.remote.scrape import scrape
from smartbatch.server.running import RunningServer
from smartbatch_worker.contract import metrics as names

from tests.e2e.listening import wait_received

BODY = b'{"data": [1, 1, 1, 1]}'
HEAD = b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
TIMEOUT_S = 60
pytestmark = pytest.mark.mended


@pytest.fixture(scope="module")
def server(start: Any) -> RunningServer:
    """One worker that takes half a second for each request of `tiny`, and one for each of `other`."""
    server: RunningServer = start(
        tiny_workers=1,
        batch_size=1,
        env={"TINY_SLEEP_S": "0.5", "SMARTBATCH_MICRO_BATCH": "8", "SMARTBATCH_COMPILE": "off"},
    )
    with server.management() as client:
        client.register("tiny.mar", "other", batch_size=1, workers=1)
        client.wait_ready("other")
    for model in ("tiny", "other"):
        assert post(server, model).json() == {"result": [3.0] * 4}
    return server


def post(server: RunningServer, model: str = "tiny", **headers: str) -> requests.Response:
    return requests.post(f"{server.inference_url}/predictions/{model}", data=BODY, headers=headers, timeout=TIMEOUT_S)


class Crowd:
    """Requests sent at once; `join` gives what each was told."""

    def __init__(self, server: RunningServer, count: int, model: str = "tiny", **headers: str) -> None:
        self._server = server
        self._told: list[str] = []
        self._threads = [threading.Thread(target=self._send, args=(server, model, headers)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _send(self, server: RunningServer, model: str, headers: dict[str, str]) -> None:
        reply = post(server, model, **headers)
        code = "" if reply.ok else reply.json().get("error", {}).get("code", "")
        self._told.append(f"{reply.status_code} {code}".strip())

    def wait_received(self) -> None:
        """Wait until the server has the requests of all."""
        wait_received(self._server, len(self._threads), self._told)

    def join(self) -> Counter[str]:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        return Counter(self._told)


def wait_queued(server: RunningServer, model: str, count: int) -> None:
    """Wait until all but those that a worker has taken wait."""
    with server.management() as client:
        while client.describe(model).pending_requests < count:
            time.sleep(0.01)


def num_handled(server: RunningServer) -> float:
    """Requests that workers have seen, once the counters are there."""
    time.sleep(0.5)
    return scrape(server.metrics_url).total(names.REQUESTS)


def test_workers_see_neither_late_requests_nor_those_of_clients_who_broke_off(server: RunningServer) -> None:
    before = num_handled(server)
    in_time = Crowd(server, 7)
    wait_queued(server, "tiny", 4)  # two seconds of work: whoever comes now waits
    late = Crowd(server, 3, **{"X-Request-Deadline-Ms": "50"})
    old = Crowd(server, 1, **{"x-request-start": f"t={time.time() - 9}", "x-request-deadline-ms": "9000"})
    patient = Crowd(server, 1, **{"X-Request-Deadline-Ms": "50000"})
    address = urlsplit(server.inference_url)
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port)) as left:
            left.sendall(HEAD + BODY)
            # By a reset. One that only ends its sending side may still read.
            left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert late.join() + old.join() == {"504 deadline_passed": 4}
    assert in_time.join() + patient.join() == {"200": 8}
    assert num_handled(server) == before + 8


def test_who_waits_for_a_removed_model_is_told_at_once(server: RunningServer) -> None:
    crowd = Crowd(server, 25, "other")
    wait_queued(server, "other", 22)
    crowd.wait_received()
    with server.management() as client:
        client.unregister("other")

    told = crowd.join()
    assert told["503 no_worker"] >= 20, told
    assert set(told) <= {"503 no_worker", "200"}, told
    assert post(server, "other").status_code == 404


def test_who_waits_for_a_model_scaled_to_none_is_told_at_once(server: RunningServer) -> None:
    crowd = Crowd(server, 25)
    wait_queued(server, "tiny", 22)
    crowd.wait_received()
    with server.management() as client:
        client.scale("tiny", 0)
        told = crowd.join()
        assert told["503 no_worker"] >= 20, told
        assert set(told) <= {"503 no_worker", "200"}, told
        client.scale("tiny", 1)
        client.wait_ready("tiny")

    assert post(server).json() == {"result": [3.0] * 4}


def test_a_drain_answers_what_waits_and_refuses_newcomers(server: RunningServer) -> None:
    url = f"{server.management_url}/drain"
    address = urlsplit(server.inference_url)
    assert "draining_since" not in requests.get(url, timeout=TIMEOUT_S).json()
    with (
        requests.Session() as open_one,
        socket.create_connection((address.hostname, address.port)) as silent,
        socket.create_connection((address.hostname, address.port)) as half,
    ):
        open_one.get(f"{server.inference_url}/ping", timeout=TIMEOUT_S)
        half.sendall(HEAD + BODY[:5])
        crowd = Crowd(server, 9)
        crowd.wait_received()

        begun = requests.post(url, timeout=TIMEOUT_S).json()
        newcomer = open_one.post(f"{server.inference_url}/predictions/tiny", data=BODY, timeout=TIMEOUT_S)

        assert 0 < begun["queued"] <= 8
        assert begun["answering"] in (begun["queued"], begun["queued"] + 1)
        assert begun["receiving"] == 1
        answered = 9 - begun["answering"]  # whose clients may not have closed yet
        assert 3 <= begun["connections"] - begun["answering"] <= 3 + answered
        assert newcomer.status_code == 503
        assert newcomer.json()["error"]["code"] == "draining"
        assert (newcomer.headers["Retry-After"], newcomer.headers["Connection"]) == ("1", "close")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.hostname, address.port))
        assert crowd.join() == {"200": 9}
        silent.settimeout(TIMEOUT_S)
        assert silent.recv(1) == b""  # its connection was ended, and not by a reset

        now = requests.get(url, timeout=TIMEOUT_S).json()
        assert now["draining_since"] == begun["draining_since"]
        assert (now["queued"], now["answering"], now["receiving"], now["connections"]) == (0, 0, 1, 1)
        again = requests.post(url, timeout=TIMEOUT_S).json()
        assert again["draining_since"] == begun["draining_since"]
        half.sendall(BODY[5:])  # it had begun before, so it is answered
        half.settimeout(TIMEOUT_S)
        assert half.recv(100).startswith(b"HTTP/1.1 200 ")
