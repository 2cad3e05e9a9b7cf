"""Stopping loses no accepted request, whatever the clients do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
import requests
from smartbatch.server import RunningServer

NUM_CLIENTS = 32


class ClosedLoopClient(threading.Thread):
    """Sends on one kept-alive connection until it is told 503 or refused a connection; counts what it meets."""

    def __init__(self, url: str, value: float, outcomes: Counter[str]) -> None:
        super().__init__()
        self.url, self.value, self.outcomes = url, value, outcomes

    def run(self) -> None:
        with requests.Session() as session:
            while True:
                outcome = self._send(session)
                self.outcomes[outcome] += 1
                if outcome != "answered":
                    return

    def _send(self, session: requests.Session) -> str:
        try:
            reply = session.post(self.url, json={"data": [self.value] * 4}, timeout=60)
        except requests.ConnectionError as e:
            return "refused" if "Connection refused" in str(e) else f"lost: {e}"
        if reply.status_code == 503:
            assert reply.json()["error"]["code"] == "draining"
            assert reply.headers["Retry-After"] == "1"
            return "drained"
        assert reply.json() == {"result": [2 * self.value + 1] * 4}
        return "answered"


def warm_up(server: RunningServer) -> None:
    """Load and calibrate the model, which takes many forwards."""
    requests.post(f"{server.inference_url}/predictions/tiny", json={"data": [1] * 4}, timeout=60).raise_for_status()


def run_clients(server: RunningServer, stop: Any) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    clients = [
        ClosedLoopClient(f"{server.inference_url}/predictions/tiny", float(n), outcomes) for n in range(NUM_CLIENTS)
    ]
    for client in clients:
        client.start()
    while outcomes["answered"] < 3 * NUM_CLIENTS:
        time.sleep(0.01)
    stop()
    for client in clients:
        client.join(60)
        assert not client.is_alive()
    return outcomes


@pytest.mark.parametrize(("workers", "sleep_s"), [(1, "0"), (2, "0.2")])
def test_stop_under_32_clients_loses_nothing(start: Any, workers: int, sleep_s: str) -> None:
    server = start(tiny_workers=workers, env={"TINY_SLEEP_S": sleep_s})

    reports = []
    outcomes = run_clients(server, lambda: reports.append(server.stop(grace_s=30)))

    assert not [outcome for outcome in outcomes if outcome.startswith("lost")], outcomes
    assert outcomes["drained"] + outcomes["refused"] == NUM_CLIENTS
    assert reports[0].complete, reports[0]
    assert not server.is_alive
    assert not (server.run_dir / "smartbatch.json").exists()


def test_queued_requests_are_answered(start: Any) -> None:
    server = start(tiny_workers=1, batch_size=2, env={"TINY_SLEEP_S": "0.5"})
    warm_up(server)
    answers: list[Any] = []

    def send(value: int) -> None:
        reply = requests.post(f"{server.inference_url}/predictions/tiny", json={"data": [value] * 4}, timeout=60)
        answers.append((value, reply.status_code, reply.json()))

    senders = [threading.Thread(target=send, args=(value,)) for value in range(24)]
    for sender in senders:
        sender.start()
    with server.management() as client:
        # All have arrived: they wait, or are in the one batch being computed, or have been answered.
        while client.describe("tiny").pending_requests + 2 + len(answers) < len(senders):
            time.sleep(0.01)
        report = server.stop(grace_s=30)
    for sender in senders:
        sender.join()

    assert sorted(answers) == [(value, 200, {"result": [2.0 * value + 1] * 4}) for value in range(24)]
    assert report is not None
    assert report.complete


def test_grace_bounds_the_stop_and_late_requests_get_503(start: Any) -> None:
    server = start(tiny_workers=1, batch_size=1, env={"TINY_SLEEP_S": "0.5"})
    warm_up(server)
    statuses: list[int] = []

    def send() -> None:
        reply = requests.post(f"{server.inference_url}/predictions/tiny", json={"data": [1] * 4}, timeout=60)
        statuses.append(reply.status_code)

    senders = [threading.Thread(target=send) for _ in range(60)]  # thirty seconds of work
    for sender in senders:
        sender.start()
    with server.management() as client:
        while client.describe("tiny").pending_requests + 1 + len(statuses) < len(senders):  # all have arrived
            time.sleep(0.01)
    report = server.stop(grace_s=12)
    for sender in senders:
        sender.join()

    assert set(statuses) == {200, 503}
    assert len(statuses) == 60
    assert report is not None
    assert not report.complete
    assert "503" in report.remark
