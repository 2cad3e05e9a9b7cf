"""The client against a real HTTP server whose answers are scripted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smartbatch.client import Client, encode_body
from smartbatch.errors import DeadlineError, ModelNotReadyError, NotRunningError, RequestRefusedError
from smartbatch.server.ports import free_ports

Reply = tuple[int, dict[str, str], bytes]
OK: Reply = (200, {"X-SmartBatch-Batch-Size": "7"}, b'{"result": [1]}')
FULL: Reply = (503, {}, b'{"code": 503, "type": "ServiceUnavailableException", "message": "Model has no worker"}')


class Scripted(ThreadingHTTPServer):
    """Answers with the scripted replies in turn, the last one for ever; remembers what it was sent."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = list(replies)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections: set[Any] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), body))
        self.server.connections.add(self.client_address)
        replies = self.server.replies
        status, headers, content = replies.pop(0) if len(replies) > 1 else replies[0]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def start(*replies: Reply) -> Scripted:
        server = Scripted(*replies)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_answer_headers_and_deadline(serve: Callable[..., Scripted]) -> None:
    server = serve(OK)
    with Client(server.url, "resnet18", "secret") as client:
        answer = client.predict([[1, 2], [3, 4]], deadline_s=2.5, headers={"X-SmartBatch-Output": "raw"})
    path, headers, body = server.requests[0]
    assert answer.json() == {"result": [1]}
    assert (answer.batch_size, answer.forward_size) == (7, None)
    assert answer.attempts == 1
    assert path == "/predictions/resnet18"
    assert json.loads(body) == {"data": [[1, 2], [3, 4]]}
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["X-Request-Deadline-Ms"] == "2500"
    assert headers["X-SmartBatch-Output"] == "raw"
    assert abs(float(headers["X-Request-Start"]) - time.time()) < 60


def test_connections_are_reused(serve: Callable[..., Scripted]) -> None:
    server = serve(OK)
    with Client(server.url, "m") as client:
        for _ in range(5):
            client.predict(b"x")
    assert len(server.connections) == 1


def test_503_is_retried_and_the_start_of_the_request_stays(serve: Callable[..., Scripted]) -> None:
    server = serve(FULL, FULL, OK)
    with Client(server.url, "m") as client:
        answer = client.predict(b"x")
    assert answer.attempts == 3
    assert len({headers["X-Request-Start"] for _, headers, _ in server.requests}) == 1


def test_retry_after_is_waited_for(serve: Callable[..., Scripted]) -> None:
    server = serve((503, {"Retry-After": "1"}, b""), OK)
    with Client(server.url, "m") as client:
        answer = client.predict(b"x")
    assert answer.attempts == 2
    assert answer.seconds >= 1


def test_503_until_the_deadline_is_a_refusal(serve: Callable[..., Scripted]) -> None:
    server = serve(FULL)
    with Client(server.url, "m") as client, pytest.raises(RequestRefusedError, match="no worker") as caught:
        client.predict(b"x", deadline_s=0.5)
    assert caught.value.status == 503
    assert len(server.requests) > 1


def test_a_refusal_is_told_though_the_last_attempt_ran_out_of_time(
    serve: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(FULL)
    client = Client(server.url, "m")
    attempt = client._attempt

    def only_the_first_is_in_time(*args: Any) -> Any:
        if server.requests:
            raise DeadlineError("late")
        return attempt(*args)

    monkeypatch.setattr(client, "_attempt", only_the_first_is_in_time)
    with client, pytest.raises(RequestRefusedError, match="no worker") as caught:
        client.predict(b"x", deadline_s=5)
    assert isinstance(caught.value.__cause__, DeadlineError)


def test_a_wait_longer_than_the_deadline_is_not_begun(serve: Callable[..., Scripted]) -> None:
    server = serve((503, {"Retry-After": "3600"}, b"later"))
    with Client(server.url, "m") as client, pytest.raises(RequestRefusedError, match="later"):
        client.predict(b"x", deadline_s=5)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        ((422, {}, b'{"error": {"code": "shape", "message": "3 channels"}}'), RequestRefusedError, "422 shape: 3 chan"),
        ((500, {}, b"Worker died."), RequestRefusedError, "500: Worker died."),
        ((404, {}, b'{"code": 404, "type": "T", "message": "Model not found: m"}'), ModelNotReadyError, "not found"),
    ],
)
def test_other_errors_are_not_retried(
    serve: Callable[..., Scripted], reply: Reply, error: type[Exception], text: str
) -> None:
    server = serve(reply)
    with Client(server.url, "m") as client, pytest.raises(error, match=text):
        client.predict(b"x")
    assert len(server.requests) == 1


def test_nobody_there_is_retried_until_the_deadline() -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with Client(url, "m") as client, pytest.raises(NotRunningError, match=url):
        client.predict(b"x", deadline_s=0.3)


def test_a_server_that_comes_up_late_still_answers(serve: Callable[..., Scripted]) -> None:
    (port,) = free_ports(1)
    late: list[Scripted] = []

    def come_up() -> None:
        Scripted.allow_reuse_address = True
        server = Scripted.__new__(Scripted)
        ThreadingHTTPServer.__init__(server, ("127.0.0.1", port), _Handler)
        server.replies, server.requests, server.connections = [OK], [], set()
        late.append(server)
        server.serve_forever(poll_interval=0.01)

    timer = threading.Timer(0.2, come_up)
    timer.start()
    with Client(f"http://127.0.0.1:{port}", "m") as client:
        answer = client.predict(b"x", deadline_s=30)
    late[0].shutdown()
    late[0].server_close()
    timer.join()
    assert answer.attempts > 1


def test_no_answer_in_time_is_a_deadline_error(serve: Callable[..., Scripted]) -> None:
    server = serve(OK)
    release = threading.Event()
    server.replies = _SlowReplies(release)
    with Client(server.url, "m") as client, pytest.raises(DeadlineError, match=r"within 0\.2 s"):
        client.predict(b"x", deadline_s=0.2)
    release.set()


class _SlowReplies(list[Reply]):
    def __init__(self, release: threading.Event) -> None:
        super().__init__([OK])
        self.release = release

    def __getitem__(self, index: Any) -> Any:
        self.release.wait(30)
        return super().__getitem__(index)


def test_deadline_must_be_ahead() -> None:
    with Client("http://127.0.0.1:1", "m") as client, pytest.raises(DeadlineError, match="above 0 s, got 0 s"):
        client.predict(b"x", deadline_s=0)


class TestBodies:
    def test_files_go_by_extension(self, tmp_path: Path) -> None:
        for name, kind in [
            ("a.JPG", "image/jpeg"),
            ("a.npy", "application/x-npy"),
            ("a.dat", "application/octet-stream"),
        ]:
            (tmp_path / name).write_bytes(b"abc")
            assert encode_body(tmp_path / name) == (b"abc", kind)

    def test_arrays_go_as_npy(self) -> None:
        content, kind = encode_body(np.arange(3, dtype=np.uint8))
        assert kind == "application/x-npy"
        assert content.startswith(b"\x93NUMPY")

    def test_the_rest(self) -> None:
        assert encode_body(b"x") == (b"x", "application/octet-stream")
        assert encode_body({"inputs": []}) == (b'{"inputs": []}', "application/json")
        with pytest.raises(TypeError, match="got str"):
            encode_body("text")
