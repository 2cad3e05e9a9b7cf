"""The frontend on the wire: order, how connections end, what a refusal looks like, how many bytes it holds.

Two models, a worker each, whose handler tells what it was given.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server

pytestmark = pytest.mark.mended

ECHO = '''
import json
import time


class Echo:
    """Says which model it is, how long the body was and which headers came; sleeps when told to."""

    def initialize(self, context):
        self.name = context.manifest["model"]["modelName"]

    def handle(self, data, context):
        return [self.answer(row, context.get_all_request_header(index)) for index, row in enumerate(data)]

    def answer(self, row, headers):
        time.sleep(float(headers.get("Sleep-S", 0)))
        headers = {name: value for name, value in headers.items() if isinstance(value, str)}
        fields = {name: len(value) for name, value in row.items()}
        return json.dumps({"model": self.name, "fields": fields, "headers": headers, "ended": time.time()})
'''
MODELS = ("first", "second")
CLIENT_TIMEOUT_S = 2
MIB = 2**20


def write_archive(store: Path, name: str) -> None:
    model = {"modelName": name, "serializedFile": "", "handler": "echo.py", "modelVersion": "1.0"}
    with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
        archive.writestr("echo.py", ECHO)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("echoes")
    for name in (*MODELS, "unstaffed"):
        write_archive(store, name)
    settings = ServerSettings(
        model_store=store,
        run_dir=tmp_path_factory.mktemp("run"),
        inference_port=0,
        management_port=0,
        metrics_port=0,
        vm_args=("-Xmx1g",),
        env={"SMARTBATCH_CLIENT_TIMEOUT_S": str(CLIENT_TIMEOUT_S)},
    )
    server = start_server(settings)
    try:
        with server.management() as client:
            client.register("unstaffed.mar", batch_size=1, max_batch_delay_ms=2, workers=0)
            for name in MODELS:
                client.register(f"{name}.mar", batch_size=8, max_batch_delay_ms=2, workers=1)
            for name in MODELS:
                client.wait_ready(name)
        yield server
    finally:
        server.stop(grace_s=0)


@pytest.fixture(scope="module", autouse=True)
def idle(server: RunningServer) -> Iterator[socket.socket]:
    """A connection without a request, which the module's last test looks after."""
    with connect(server) as client:
        yield client


def connect(server: RunningServer) -> socket.socket:
    url = urlsplit(server.inference_url)
    return socket.create_connection((url.hostname, url.port), timeout=60)


def request(model: str = "first", *headers: str, version: str = "1.1", body: bytes = b"hello") -> bytes:
    head = [f"POST /predictions/{model} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


class Answers:
    """Reads one answer after the other from a connection."""

    def __init__(self, client: socket.socket) -> None:
        self._stream = client.makefile("rb")

    def next(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers in lower case, body."""
        status = int(self._stream.readline().split()[1])
        headers = {name.lower(): value for name, value in http.client.parse_headers(self._stream).items()}
        return status, headers, json.loads(self._stream.read(int(headers["content-length"])))

    def has_ended(self) -> bool:
        return self._stream.read() == b""


def code(server: RunningServer, path: str, **sent: Any) -> tuple[int, str]:
    answer = requests.request(sent.pop("method", "POST"), server.inference_url + path, timeout=60, **sent)
    assert set(answer.json()["error"]) == {"code", "message"}
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("num_pairs", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_pipelined_requests_are_answered_in_order(server: RunningServer, num_pairs: int) -> None:
    num_connections = 20

    def run(number: int) -> None:
        pairs = num_pairs // num_connections
        with connect(server) as client, ThreadPoolExecutor(1) as pool:
            sizes = [(number + index) % 97 + 1 for index in range(2 * pairs)]
            sent = b"".join(request(MODELS[index % 2], body=b"x" * size) for index, size in enumerate(sizes))
            sending = pool.submit(client.sendall, sent)
            answers = Answers(client)
            for index, size in enumerate(sizes):
                status, _, body = answers.next()
                assert (status, body["model"], body["fields"]["body"]) == (200, MODELS[index % 2], size)
            sending.result()

    with ThreadPoolExecutor(num_connections) as pool:
        list(pool.map(run, range(num_connections)))


@pytest.mark.parametrize(
    "sent", [request("first", "Connection: close"), request(version="1.0"), request("nobody", "Connection: close")]
)
def test_the_connection_ends_where_the_client_wants_it(server: RunningServer, sent: bytes) -> None:
    with connect(server) as client:
        client.sendall(sent)
        answers = Answers(client)
        status, headers, _ = answers.next()
        assert (status, headers["connection"]) == (404 if b"nobody" in sent else 200, "close")
        assert answers.has_ended()


def test_it_stays_open_otherwise_also_after_errors(server: RunningServer) -> None:
    with connect(server) as client:
        answers = Answers(client)
        for model, status in (("first", 200), ("nobody", 404), ("unstaffed", 503), ("first", 200)):
            client.sendall(request(model))
            assert answers.next()[0] == status
        client.sendall(request("first", "Connection: keep-alive", version="1.0"))
        assert answers.next()[1]["connection"] == "keep-alive"
        client.sendall(request())
        assert answers.next()[0] == 200


def test_a_client_that_has_closed_its_sending_side_is_answered(server: RunningServer) -> None:
    with connect(server) as client:
        client.sendall(request("first", "Sleep-S: 0.2") + request("second"))
        client.shutdown(socket.SHUT_WR)
        answers = Answers(client)
        assert [answers.next()[2]["model"] for _ in MODELS] == ["first", "second"]
        assert answers.has_ended()


def test_every_refusal_has_its_code(server: RunningServer) -> None:
    assert code(server, "/predictions/nobody", data=b"x") == (404, "unknown_model")
    assert code(server, "/predictions/first/7.0", data=b"x") == (404, "unknown_model")
    assert code(server, "/predictions/unstaffed", data=b"x") == (503, "no_worker")
    assert code(server, "/nowhere", method="GET") == (404, "not_found")
    managed = requests.get(f"{server.management_url}/models/nobody", timeout=60)
    assert managed.json()["type"] == "ModelNotFoundException", "tools read what management says"


def test_a_body_too_large_is_refused_by_its_head(server: RunningServer) -> None:
    with connect(server) as client:
        client.sendall(
            b"POST /predictions/first HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"
        )
        answers = Answers(client)
        status, _, body = answers.next()
        assert (status, body["error"]["code"]) == (413, "too_large")
        assert answers.has_ended()
    with connect(server) as client:
        client.sendall(request("first", "Expect: 100-continue", body=b"hello")[:-5])
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")
        assert Answers(client).next()[2]["fields"] == {"body": 5}


def test_forms_are_refused_or_bounded(server: RunningServer) -> None:
    def resident() -> int:
        return int(psutil.Process(server.pid).memory_info().rss)

    def post(**sent: Any) -> tuple[int, Any]:
        answer = requests.post(f"{server.inference_url}/predictions/first", timeout=60, **sent)
        return answer.status_code, answer.json()

    before = resident()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert post(data=b"a=&" * (16 * MIB // 3), headers=form)[0] == 415  # and reaches a client that is still sending
    assert resident() - before < 50 * MIB
    files = {"file": ("x.bin", b"x" * MIB, "application/octet-stream"), "title": (None, "x")}
    assert post(files=files)[1]["fields"] == {"file": MIB, "title": 1}
    status, body = post(files=[("file", "x")] * 200)
    assert (status, body["error"]["code"]) == (400, "malformed")
    assert list(Path(server.state.run_dir).rglob("FUp_*")) == []


def test_what_only_torchserve_may_say_is_not_taken_from_clients(server: RunningServer) -> None:
    names = ("Describe", "EXPLAIN", "ts_stream_next", "ts_request_sequence_id", "TS_request_sequence_start", "Url_Path")
    headers = {**dict.fromkeys(names, "True"), "X-Mine": "kept"}
    answer = requests.post(f"{server.inference_url}/predictions/first", data=b"x", headers=headers, timeout=60)
    given = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert given["x-mine"] == "kept"
    assert (given["explain"], given["url_path"]) == ("False", "")
    assert not given.keys() & {"describe", "ts_stream_next", "ts_request_sequence_id", "ts_request_sequence_start"}


def test_a_request_starts_when_it_arrives(server: RunningServer) -> None:
    with connect(server) as one, connect(server) as other, connect(server) as third:
        one.sendall(request("first", "Sleep-S: 1"))
        time.sleep(0.3)  # it has the worker now, for its batch waits 2 ms
        other.sendall(request())
        third.sendall(request("first", "X-Request-Start: 12.5"))
        ended = Answers(one).next()[2]["ended"]
        start = Answers(other).next()[2]["headers"]["X-Request-Start"]
        assert float(start.removeprefix("t=")) < ended, "stamped by the worker's time, not by its arrival"
        assert Answers(third).next()[2]["headers"]["X-Request-Start"] == "12.5"


@pytest.mark.parametrize("half", [b"POST /predictions/first HTTP/1.1\r\nHost:", request()[:-1]])
def test_half_a_request_is_not_waited_for(server: RunningServer, half: bytes) -> None:
    with connect(server) as client:
        client.sendall(half)
        answers = Answers(client)
        status, _, body = answers.next()
        assert (status, body["error"]["code"]) == (408, "too_slow")
        assert answers.has_ended()


def test_large_bodies_leave_room_for_others(server: RunningServer) -> None:
    """25 of 32 MiB at once, at a heap of 1 GiB."""
    body = os.urandom(32 * MIB)

    def post(size: int) -> tuple[int, str]:
        sent = body if size == len(body) else body[:size]
        answer = requests.post(f"{server.inference_url}/predictions/first", data=sent, timeout=120)
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    with ThreadPoolExecutor(25) as pool:
        large = [pool.submit(post, len(body)) for _ in range(25)]
        innocents: Counter[tuple[int, str]] = Counter()
        while not all(future.done() for future in large):
            innocents[post(1000)] += 1
            innocents[post(150_000)] += 1
    found = Counter(future.result() for future in large)
    assert set(innocents) == {(200, "")}, innocents
    assert set(found) == {(200, ""), (503, "overloaded")}, found
    assert psutil.pid_exists(server.pid)
    assert post(len(body)) == (200, ""), "room is given back"


def test_an_idle_connection_ends(idle: socket.socket) -> None:
    """After ten times what a client may take in the middle of a request."""
    assert idle.recv(1) == b""
