"""Clients of one registered model: many requests at once, each answer checked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from smartbatch.remote.management import ModelStatus
from smartbatch.remote.scrape import scrape
from smartbatch.remote.status import describe_workers
from smartbatch.server.running import RunningServer

TIMEOUT_S = 120
Values = Sequence[float]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; status 0 where the connection broke."""

    sent: tuple[float, ...]
    status: int
    body: Any
    headers: dict[str, str]
    seconds: float
    ended: float = field(default_factory=time.monotonic)

    @property
    def code(self) -> str:
        """The error's machine-readable code, or ""."""
        error = self.body.get("error", {}) if isinstance(self.body, dict) else {}
        return str(error.get("code", ""))

    @property
    def is_right(self) -> bool:
        """200 with y = 2x + 1."""
        return self.status == 200 and self.body == {"result": [2 * value + 1 for value in self.sent]}


def good(number: float) -> list[float]:
    """An item whose answer tells it from every other; small integers are exact in float32."""
    return [number, 1.0, 2.0, 3.0]


class Service:
    """One registered model."""

    def __init__(self, server: RunningServer, name: str) -> None:
        self.server = server
        self.name = name
        self.url = f"{server.inference_url}/predictions/{name}"

    def post(self, values: Values, session: requests.Session | None = None, **headers: str) -> Reply:
        """Send one item."""
        start = time.monotonic()
        sent = tuple(float(value) for value in values)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            reply = (session or requests).post(self.url, json={"data": list(sent)}, headers=names, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            return Reply(sent, 0, repr(error), {}, time.monotonic() - start)
        try:
            body = reply.json()
        except ValueError:
            body = reply.text
        return Reply(sent, reply.status_code, body, dict(reply.headers), time.monotonic() - start)

    def post_together(self, items: Sequence[Values]) -> list[Reply]:
        """Send all items at one moment, each on a connection of its own."""
        gate = threading.Barrier(len(items))

        def send(values: Values) -> Reply:
            gate.wait(TIMEOUT_S)
            return self.post(values)

        with ThreadPoolExecutor(len(items)) as pool:
            return list(pool.map(send, items))

    def status(self) -> ModelStatus:
        """As the management API has it."""
        with self.server.management() as client:
            return client.describe(self.name)

    def worker_pids(self) -> set[int]:
        """Of the workers that are READY."""
        return {worker.pid for worker in self.status().workers if worker.status == "READY"}

    def wait_workers(self, wanted: Callable[[set[int]], bool], timeout_s: float = TIMEOUT_S) -> float:
        """Wait until the pids of the READY workers are as wanted; returns the seconds it took."""
        start = time.monotonic()
        while not wanted(self.worker_pids()):
            assert time.monotonic() - start < timeout_s, self.status()
            time.sleep(0.1)
        return time.monotonic() - start

    def load_all_workers(self) -> None:
        """Have every worker load the weights: what is measured later is not the first load."""
        while not all(described["loaded"] for described in self.descriptions().values()):
            replies = self.post_together([good(n) for n in range(2 * len(self.worker_pids()))])
            assert all(reply.is_right for reply in replies), replies

    def descriptions(self) -> dict[int, Any]:
        """What each worker says of itself, by pid."""
        with self.server.management() as client:
            found = describe_workers(client, client.describe(self.name), TIMEOUT_S)
        assert found
        return dict(found)

    def splits(self, reason: str) -> float:
        """Value of smartbatch_splits_total."""
        time.sleep(0.3)  # metrics are written at most 50 ms after a batch
        return scrape(self.server.metrics_url).total("smartbatch_splits_total", model=self.name, reason=reason)


class Load:
    """Closed-loop clients on kept-alive connections, from `start` to `stop`.

    Args:
        service: that they ask.
        num_clients: at a time.
        item: what the client of that number sends.
        pause_s: after each answer. Where the server need not be busy, but in use, its clients leave the processor to
            the tests beside.
        once: each asks once.
    """

    def __init__(
        self,
        service: Service,
        num_clients: int,
        item: Callable[[int], Values] = good,
        *,
        pause_s: float = 0.0,
        once: bool = False,
    ) -> None:
        self._once, self._pause_s = once, pause_s
        self._service = service
        self._item = item
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.replies: list[Reply] = []
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(num_clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def wait_for(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = len(self.replies) + count
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.replies) < wanted:
            assert time.monotonic() < deadline, Counter(reply.status for reply in self.replies)
            time.sleep(0.01)

    def statuses(self) -> Counter[int]:
        """How many answers of each status."""
        return Counter(reply.status for reply in self.replies)

    def _run(self, number: int) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                reply = self._service.post(self._item(number), session)
                with self._lock:
                    self.replies.append(reply)
                if self._once or (self._pause_s and self._stop.wait(self._pause_s)):
                    return


def count_forwards(path: Path) -> int:
    """Forwards since the server started."""
    return path.stat().st_size


def jvm(server: RunningServer) -> psutil.Process:
    """The frontend."""
    return psutil.Process(server.pid)
