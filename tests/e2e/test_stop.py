"""Stopping loses no accepted request, whatever the clients do."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from smartbatch.errors import DeadlineError
from smartbatch.server.running import RunningServer
from smartbatch.server.stopping.stop import StopReport, stop_server
from smartbatch_worker.contract.environment import FORK_SERVER

from tests.e2e.listening import wait_received
from tests.e2e.serve_process import CONTAINED, END_TIMEOUT_S, WAYS_TO_STOP, Served, served

NUM_CLIENTS = 32
UNCALIBRATED = {"SMARTBATCH_MICRO_BATCH": "8", "SMARTBATCH_COMPILE": "off"}
"""Measuring a forward that sleeps takes long and tells nothing."""
LOST = (500, 507)
"""What TorchServe answers for the batch of a worker that it ends: 507 where it saw the worker killed before it told."""


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


def warm_up(server: RunningServer | Served) -> None:
    """Load and calibrate the model, which takes many forwards."""
    requests.post(f"{server.inference_url}/predictions/tiny", json={"data": [1] * 4}, timeout=60).raise_for_status()


def run_clients(server: RunningServer | Served, stop: Callable[[], Any]) -> Counter[str]:
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


@pytest.mark.mended
@pytest.mark.parametrize(("workers", "sleep_s"), [pytest.param(1, "0", marks=pytest.mark.slow), (2, "0.2")])
def test_stop_under_32_clients_loses_nothing(start: Any, workers: int, sleep_s: str) -> None:
    server = start(tiny_workers=workers, env={"TINY_SLEEP_S": sleep_s, **UNCALIBRATED})

    reports = []
    outcomes = run_clients(server, lambda: reports.append(server.stop(grace_s=30)))

    assert not [outcome for outcome in outcomes if outcome.startswith("lost")], outcomes
    assert outcomes["drained"] + outcomes["refused"] == NUM_CLIENTS
    assert reports[0].complete, reports[0]
    assert not server.is_alive
    assert not (server.run_dir / "smartbatch.json").exists()


@pytest.mark.mended
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] if way in CONTAINED else []) for way in WAYS_TO_STOP]
)
def test_no_way_to_stop_loses_a_request(model_store: Path, tmp_path: Path, way: str) -> None:
    on_a_terminal = way == "the terminal is closed"
    own = {FORK_SERVER: "on"} if way == "systemd's order" else {}  # which is then among what gets the signals
    with served(
        model_store,
        tmp_path,
        "--batch-size=8",
        on_a_terminal=on_a_terminal,
        env={"TINY_SLEEP_S": "0.1", **UNCALIBRATED, **own},
    ) as server:
        warm_up(server)
        processes = server.tree()

        outcomes = run_clients(server, lambda: WAYS_TO_STOP[way](server))
        exit_code = server.process.wait(END_TIMEOUT_S)

        assert not [outcome for outcome in outcomes if outcome.startswith("lost")], outcomes
        assert outcomes["drained"] + outcomes["refused"] == NUM_CLIENTS
        assert exit_code == 0, server.said.read_text(errors="replace")
        assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
        assert not Path(server.state.tmp_dir).exists()
        assert {path.name for path in server.run_dir.iterdir()} == {"config.properties", "logs"}


@pytest.mark.mended  # TorchServe's own does not say what it has
def test_queued_requests_are_answered(start: Any) -> None:
    server = start(tiny_workers=1, batch_size=2, env={"TINY_SLEEP_S": "0.5", **UNCALIBRATED})
    warm_up(server)
    answers: list[Any] = []

    def send(value: int) -> None:
        reply = requests.post(f"{server.inference_url}/predictions/tiny", json={"data": [value] * 4}, timeout=60)
        answers.append((value, reply.status_code, reply.json()))

    senders = [threading.Thread(target=send, args=(value,)) for value in range(24)]
    for sender in senders:
        sender.start()
    wait_received(server, len(senders), answers)
    report = server.stop(grace_s=30)
    for sender in senders:
        sender.join()

    assert sorted(answers) == [(value, 200, {"result": [2.0 * value + 1] * 4}) for value in range(24)]
    assert report is not None
    assert report.complete


@pytest.mark.mended
def test_grace_bounds_the_stop_and_late_requests_get_503(start: Any) -> None:
    server = start(tiny_workers=1, batch_size=1, env={"TINY_SLEEP_S": "0.5", **UNCALIBRATED})
    warm_up(server)
    statuses: list[int] = []

    def send() -> None:
        reply = requests.post(f"{server.inference_url}/predictions/tiny", json={"data": [1] * 4}, timeout=60)
        statuses.append(reply.status_code)

    senders = [threading.Thread(target=send) for _ in range(60)]  # thirty seconds of work
    for sender in senders:
        sender.start()
    wait_received(server, len(senders), statuses)
    report = server.stop(grace_s=12)
    for sender in senders:
        sender.join()

    assert set(statuses) == {200, 503}
    assert len(statuses) == 60
    assert report is not None
    assert not report.complete
    assert "503" in report.remark


def send_many(server: RunningServer | Served, count: int, outcomes: list[Any]) -> list[threading.Thread]:
    """Send `count` requests at once; each appends its status, or the error its connection met."""

    def send() -> None:
        try:
            url = f"{server.inference_url}/predictions/tiny"
            outcomes.append(requests.post(url, json={"data": [1] * 4}, timeout=120).status_code)
        except requests.ConnectionError as e:
            outcomes.append(repr(e))

    senders = [threading.Thread(target=send) for _ in range(count)]
    for sender in senders:
        sender.start()
    return senders


def wait_queued(server: RunningServer | Served, num_queued: int) -> None:
    url = f"{server.state.management_url}/models/tiny"
    while requests.get(url, timeout=60).json()[0]["jobQueueStatus"]["pendingRequests"] < num_queued:
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["Ctrl-C again", "smartbatch stop --grace 0"])
def test_an_impatient_human_is_obeyed(model_store: Path, tmp_path: Path, way: str) -> None:
    outcomes: list[Any] = []
    with served(model_store, tmp_path, "--batch-size=1", env={"TINY_SLEEP_S": "30", **UNCALIBRATED}) as server:
        senders = send_many(server, 3, outcomes)
        wait_queued(server, 2)
        server.process.send_signal(signal.SIGINT)
        server.wait_said("Stopping")
        if way == "Ctrl-C again":
            server.process.send_signal(signal.SIGINT)
        else:
            assert not stop_server(server.run_dir, None, 0).complete
        exit_code = server.process.wait(END_TIMEOUT_S)
        for sender in senders:
            sender.join()

        assert exit_code == DeadlineError.exit_code
        assert [type(outcome) for outcome in outcomes] == [str] * 3, outcomes  # nobody waited for 30 s
        assert {path.name for path in server.run_dir.iterdir()} == {"config.properties", "logs"}


@pytest.mark.mended
def test_who_waits_for_a_removed_model_is_answered(start: Any) -> None:
    server = start(tiny_workers=1, batch_size=1, env={"TINY_SLEEP_S": "1", **UNCALIBRATED})
    warm_up(server)
    outcomes: list[Any] = []
    senders = send_many(server, 6, outcomes)
    wait_received(server, 6, outcomes)
    with server.management() as client:
        client.unregister("tiny")

    report = server.stop(grace_s=30)
    for sender in senders:
        sender.join()

    assert report is not None
    assert report.complete, report
    assert set(outcomes) <= {200, *LOST, 503}, outcomes  # the batch in flight is TorchServe's to lose
    assert outcomes.count(503) >= 4


@pytest.mark.mended
def test_half_a_request_is_none(start: Any) -> None:
    server = start(tiny_workers=1, env=UNCALIBRATED)
    warm_up(server)
    address = urlsplit(server.inference_url)
    with (
        socket.create_connection((address.hostname, address.port)) as half,
        socket.create_connection((address.hostname, address.port)),  # and one that never says anything
    ):
        half.sendall(b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        report = server.stop(grace_s=30)

    assert report is not None
    assert report.complete, report
    assert report.remark == "1 connection(s) had sent a part of a request, and nothing more"


@pytest.mark.mended
def test_who_waits_for_a_model_without_workers_is_answered(start: Any) -> None:
    server = start(tiny_workers=1, batch_size=1, env={"TINY_SLEEP_S": "1", **UNCALIBRATED})
    warm_up(server)
    outcomes: list[Any] = []
    senders = send_many(server, 6, outcomes)
    wait_received(server, 6, outcomes)
    with server.management() as client:
        client.scale("tiny", 0)  # TorchServe's own: the batch in flight is lost

    report = server.stop(grace_s=90)
    for sender in senders:
        sender.join()

    assert report is not None
    assert report.complete, report
    assert set(outcomes) <= {200, *LOST, 503}, outcomes
    assert outcomes.count(503) >= 4


def test_torchserves_own_frontend_answers_what_waits(start: Any) -> None:
    server = start(
        tiny_workers=1, batch_size=2, env={"TINY_SLEEP_S": "0.5", "SMARTBATCH_FRONTEND": "stock", **UNCALIBRATED}
    )
    warm_up(server)
    outcomes: list[Any] = []
    senders = send_many(server, 12, outcomes)
    wait_queued(server, 8)

    report = server.stop(grace_s=60)
    for sender in senders:
        sender.join()

    assert outcomes == [200] * 12
    assert report is not None
    assert report.complete, report
    assert "refuses no newcomers" in report.remark


@pytest.mark.mended
def test_a_program_that_started_a_server_outlives_its_stop(start: Any) -> None:
    """This test is that program; two stops take turns, and both say how it went."""
    server = start(tiny_workers=1, env={"TINY_SLEEP_S": "0.2", **UNCALIBRATED})
    warm_up(server)
    reports: list[StopReport] = []

    def stop_twice() -> None:
        stops = [
            threading.Thread(target=lambda: reports.append(stop_server(server.run_dir, None, 30))) for _ in range(2)
        ]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()

    outcomes = run_clients(server, stop_twice)

    assert set(outcomes) <= {"answered", "drained", "refused"}, outcomes
    assert [report.complete for report in reports] == [True, True], reports
    assert not server.is_alive
    assert server.stop() is None
