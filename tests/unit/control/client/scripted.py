"""A real HTTP server whose answers are scripted, and the async client as tests of the other one call it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

from smartbatch.client import AsyncClient, Prediction

from tests.many_connections import ManyConnections

Reply = tuple[int, dict[str, str], bytes]
OK: Reply = (200, {"X-SmartBatch-Batch-Size": "7", "Content-Type": "application/json"}, b'{"result": [1]}')
FULL: Reply = (503, {}, b'{"code": 503, "type": "ServiceUnavailableException", "message": "Model has no worker"}')
TOKEN: Reply = (400, {}, b'{"error": {"code": "token_refused", "message": "expired"}}')


class Scripted(ManyConnections):
    """Answers with the scripted replies in turn, the last one for ever; remembers what it was sent.

    Questions (GET) are answered by path, 404 where nothing is said.
    """

    def __init__(self, *replies: Reply, port: int = 0, questions: dict[str, tuple[int, bytes]] | None = None) -> None:
        self.allow_reuse_address = True
        super().__init__(("127.0.0.1", port), _Handler)
        self.replies: list[Reply] = list(replies)
        self.questions = questions or {}
        self.asked: list[str] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections: set[Any] = set()
        self.lock = threading.Lock()
        self.num_at_once = 0
        self.most_at_once = 0
        self.gate = threading.Event()
        """Cleared: answers wait for it."""
        self.gate.set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, body: bytes) -> Reply:
        """What a body gets."""
        with self.lock:
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def end(self) -> None:
        """Close the port; connections that are open stay so until their clients go."""
        self.gate.set()
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.requests.append((self.path, dict(self.headers), body))
            server.connections.add(self.client_address)
            server.num_at_once += 1
            server.most_at_once = max(server.most_at_once, server.num_at_once)
        server.gate.wait(30)
        reply = server.answer(body)
        with server.lock:
            server.num_at_once -= 1
        self._send(*reply)

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append(self.path)
        status, content = self.server.questions.get(self.path, (404, b""))
        self._send(status, {}, content)

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client gave up
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class FromTasks:
    """AsyncClient with Client's methods: each call is run to its end on a loop of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = AsyncClient(*args, **kwargs)
        self._loop = asyncio.new_event_loop()

    def predict(self, body: Any, **kwargs: Any) -> Prediction:
        return self._loop.run_until_complete(self._client.predict(body, **kwargs))

    def map(self, inputs: Any, **kwargs: Any) -> Sequence[Prediction | Exception]:
        async def everything() -> list[Prediction | Exception]:
            return [answer async for answer in self._client.map(inputs, **kwargs)]

        return self._loop.run_until_complete(everything())

    def is_ready(self, **kwargs: Any) -> bool:
        return self._loop.run_until_complete(self._client.is_ready(**kwargs))

    def __enter__(self) -> FromTasks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()
