"""The open loop against a small server of known behaviour."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from smartbatch_load.load.answers import parse
from smartbatch_load.load.interrupt import Interrupt
from smartbatch_load.load.openloop import Load, fire
from smartbatch_load.load.payloads import Payload
from smartbatch_load.load.solo import SoloError, fetch

from tests.many_connections import ManyConnections

ANSWER = json.dumps({"result": [1.0, 2.0]}).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers what the path asks for: /ok, /fail, /wrong, /stuck (until released)."""

    protocol_version = "HTTP/1.1"
    released: threading.Event

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        what = self.path.rsplit("/", 1)[-1]
        if what == "stuck":
            self.released.wait()
        body = b'{"result": [9.0, 2.0]}' if what == "wrong" else ANSWER
        self.send_response(503 if what == "fail" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-SmartBatch-Batch-Size", "4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    Handler.released = threading.Event()
    server = ManyConnections(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Handler.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def load(host: str, what: str) -> Load:
    payload = Payload(name="p", body=b"{}", content_type="application/json")
    return Load(
        url=f"{host}/predictions/{what}",
        payloads=[payload],
        expected={"p": parse(ANSWER)},
        headers={},
        timeout_s=60,
    )


def test_every_planned_request_is_sent_once_at_its_time(host: str) -> None:
    times = [i * 0.01 for i in range(50)]
    with Interrupt() as interrupt:
        volley = fire(load(host, "ok"), times, max_outstanding=1000, interrupt=interrupt)
    assert sorted(shot.intended_s for shot in volley.shots) == times
    assert all(shot.ok and shot.batch_size == 4 for shot in volley.shots)
    assert all(shot.lag_s >= 0 and shot.latency_s >= shot.lag_s for shot in volley.shots)
    assert not volley.backlogged
    assert not volley.interrupted


@pytest.mark.parametrize(("what", "error"), [("fail", "HTTP 503"), ("wrong", "wrong answer: best score")])
def test_failures_are_failures(host: str, what: str, error: str) -> None:
    with Interrupt() as interrupt:
        volley = fire(load(host, what), [0.0, 0.0], max_outstanding=10, interrupt=interrupt)
    assert [shot.ok for shot in volley.shots] == [False, False]
    assert all(shot.error.startswith(error) for shot in volley.shots)


def test_nobody_listening_is_a_failure_of_each_request(host: str) -> None:
    with Interrupt() as interrupt:
        volley = fire(load("http://127.0.0.1:1", "ok"), [0.0, 0.01], max_outstanding=10, interrupt=interrupt)
    assert [(shot.ok, shot.status) for shot in volley.shots] == [(False, 0), (False, 0)]


def test_a_server_that_stops_answering_does_not_stop_the_sending(host: str) -> None:
    """The point of an open loop: what is due is sent, and waits in the latencies."""
    release = threading.Timer(1.0, Handler.released.set)
    release.start()
    with Interrupt() as interrupt:
        volley = fire(load(host, "stuck"), [0.0, 0.1, 0.2, 0.3], max_outstanding=1000, interrupt=interrupt)
    release.join()
    assert len(volley.shots) == 4
    first = min(volley.shots, key=lambda shot: shot.intended_s)
    assert all(shot.sent_s < first.ended_s for shot in volley.shots)


def test_a_backlog_ends_the_sending(host: str) -> None:
    release = threading.Timer(1.0, Handler.released.set)
    release.start()
    times = [i * 0.001 for i in range(100)]
    with Interrupt() as interrupt:
        volley = fire(load(host, "stuck"), times, max_outstanding=5, interrupt=interrupt)
    release.join()
    assert volley.backlogged
    assert len(volley.shots) == 5


def test_an_interrupt_gives_up_what_is_on_its_way(host: str) -> None:
    with Interrupt() as interrupt:
        stop = threading.Timer(0.3, interrupt._event.set)
        stop.start()
        began = time.monotonic()
        volley = fire(load(host, "stuck"), [0.0, 600.0], max_outstanding=10, interrupt=interrupt)
        stop.join()
    assert volley.interrupted
    assert time.monotonic() - began < 300  # neither the stuck answer nor the next send was waited for


def test_answers_alone(host: str) -> None:
    payload = Payload(name="p", body=b"{}", content_type="application/json")
    assert fetch(host, "ok", [payload], timeout_s=60) == {"p": parse(ANSWER)}
    with pytest.raises(SoloError, match="503"):
        fetch(host, "fail", [payload], timeout_s=60)
    with pytest.raises(SoloError, match="does not answer"):
        fetch("http://127.0.0.1:1", "ok", [payload], timeout_s=60)
