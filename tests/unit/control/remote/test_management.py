"""The management client against a real HTTP server with TorchServe's replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from smartbatch.errors import DeadlineError, ModelNotReadyError, NotRunningError
from smartbatch.remote.key_file import is_expired, read_tokens
from smartbatch.remote.management import ManagementClient, ManagementError, ModelStatus
from smartbatch.server.ports import free_ports

WORKER = {"id": "9000", "startTime": "2026-01-01T00:00:00Z", "status": "READY", "gpu": False, "pid": 17}
DESCRIBED: dict[str, Any] = {
    "modelName": "tiny",
    "modelVersion": "1.0",
    "modelUrl": "tiny.mar",
    "batchSize": 8,
    "maxBatchDelay": 5,
    "minWorkers": 1,
    "maxWorkers": 1,
    "responseTimeout": 60,
    "workers": [WORKER],
    "jobQueueStatus": {"remainingCapacity": 99, "pendingRequests": 1},
}


class TorchServeStandIn(HTTPServer):
    """Answers every call with `reply`; remembers the calls and their tokens."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: tuple[int, Any] = (200, {"status": "ok"})
        self.calls: list[str] = []
        self.tokens: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: TorchServeStandIn

    def _answer(self) -> None:
        self.server.calls.append(f"{self.command} {self.path}")
        self.server.tokens.append(self.headers.get("Authorization"))
        status, reply = self.server.reply
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[TorchServeStandIn]:
    standin = TorchServeStandIn()
    threading.Thread(target=standin.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield standin
    standin.shutdown()
    standin.server_close()


@pytest.fixture
def client(server: TorchServeStandIn) -> Iterator[ManagementClient]:
    with ManagementClient(f"http://127.0.0.1:{server.server_address[1]}") as found:
        yield found


def test_calls_are_spelled_as_torchserve_wants_them(server: TorchServeStandIn, client: ManagementClient) -> None:
    client.register("tiny.mar", "t/1", batch_size=8, max_batch_delay_ms=5, workers=2)
    client.scale("t", 3, "1.0")
    client.set_default("t/1", "2.0")
    client.unregister("t", "1.0")
    assert server.calls == [
        "POST /models?url=tiny.mar&batch_size=8&max_batch_delay=5&initial_workers=2&synchronous=false&model_name=t%2F1",
        "PUT /models/t/1.0?min_worker=3&max_worker=3&synchronous=false",
        "PUT /models/t%2F1/2.0/set-default",
        "DELETE /models/t/1.0",
    ]


def test_description(server: TorchServeStandIn, client: ManagementClient) -> None:
    server.reply = (200, [{**DESCRIBED, "customizedMetadata": {"loaded": True, "pid": 17}}])
    status = client.describe("tiny", customized=True)
    assert (status.batch_size, status.max_batch_delay_ms, status.pending_requests) == (8, 5, 1)
    assert status.workers[0].pid == 17
    assert status.customized == {"loaded": True, "pid": 17}
    assert status.is_ready
    assert server.calls == ["GET /models/tiny?customized=true"]


@pytest.mark.parametrize(
    ("workers", "min_workers", "ready"),
    [([WORKER], 1, True), ([], 1, False), ([WORKER, {**WORKER, "status": "UNLOADING"}], 2, False), ([], 0, False)],
)
def test_ready_means_every_worker_is(workers: list[Any], min_workers: int, ready: bool) -> None:
    assert ModelStatus.from_json({**DESCRIBED, "workers": workers, "minWorkers": min_workers}).is_ready is ready


def test_errors(server: TorchServeStandIn, client: ManagementClient) -> None:
    server.reply = (404, {"code": 404, "type": "ModelNotFoundException", "message": "Model not found: x"})
    with pytest.raises(ModelNotReadyError, match="Model not found: x"):
        client.describe("x")
    with pytest.raises(ManagementError, match="Model not found: x"):
        client.register("x.mar")
    server.reply = (409, {"message": "already registered"})
    with pytest.raises(ManagementError, match="already registered") as caught:
        client.register("tiny.mar")
    assert caught.value.status == 409


def test_waiting_ends_with_the_states_it_saw(server: TorchServeStandIn, client: ManagementClient) -> None:
    server.reply = (200, [{**DESCRIBED, "workers": [{**WORKER, "status": "UNLOADING"}]}])
    with pytest.raises(DeadlineError, match="9000 UNLOADING"):
        client.wait_ready("tiny", timeout_s=0)
    server.reply = (200, [{**DESCRIBED, "workers": [], "minWorkers": 0}])
    with pytest.raises(ModelNotReadyError, match="has no workers: smartbatch scale tiny"):
        client.wait_ready("tiny")


def test_nobody_there() -> None:
    with ManagementClient(f"http://127.0.0.1:{free_ports(1)[0]}") as nobody, pytest.raises(NotRunningError):
        nobody.models()


class TestTokens:
    @staticmethod
    def write(path: Path, management: str, expires: str) -> None:
        key = {"key": management, "expiration time": expires}
        path.write_text(json.dumps({"management": key, "inference": {**key, "key": "inf"}, "API": {"key": "api"}}))

    def test_the_current_token_is_read_for_each_call(self, server: TorchServeStandIn, tmp_path: Path) -> None:
        key_file = tmp_path / "key_file.json"
        with ManagementClient(f"http://127.0.0.1:{server.server_address[1]}", key_file=key_file) as client:
            for token in ("one", "two"):
                self.write(key_file, token, "2999-01-01T00:00:00.123456789Z")
                client.scale("t", 1)
        assert server.tokens == ["Bearer one", "Bearer two"]

    def test_an_expired_one_is_renewed_first_with_the_api_key(self, server: TorchServeStandIn, tmp_path: Path) -> None:
        key_file = tmp_path / "key_file.json"
        self.write(key_file, "old", "2020-01-01T00:00:00Z")
        with ManagementClient(f"http://127.0.0.1:{server.server_address[1]}", key_file=key_file) as client:
            client.scale("t", 1)
        assert server.calls[0] == "GET /token?type=management"
        assert server.tokens[0] == "Bearer api"

    def test_reading(self, tmp_path: Path) -> None:
        key_file = tmp_path / "key_file.json"
        with pytest.raises(NotRunningError, match="no tokens"):
            read_tokens(key_file)
        for content in (b"", b"[]", b"null", b"{}", b"\xff", b'{"inference": 7}'):
            key_file.write_bytes(content)
            with pytest.raises(NotRunningError, match="is not what TorchServe writes"):
                read_tokens(key_file)
        self.write(key_file, "m", "2999-01-01T00:00:00Z")
        assert read_tokens(key_file).management == "m"

    def test_expiry(self) -> None:
        assert is_expired("1970-01-01T00:01:40.9Z", now=100)
        assert not is_expired("1970-01-01T00:01:41Z", now=100)
