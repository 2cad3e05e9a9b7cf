"""More load than the model can take: refused at once with 503, and what is accepted is answered as fast as ever.

Arrivals are open-loop: they keep coming whatever the server does, as a crowd of clients would.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import requests
from smartbatch.client import Client

from tests.faults.conftest import QUEUE_SIZE, Serve
from tests.faults.models.hostile import SLEEPS
from tests.faults.serving import Load, Reply, Service

BATCH_SIZE = 4
BATCH_S = 0.1
CAPACITY_PER_S = BATCH_SIZE / BATCH_S
OVERLOAD = 3


def item(number: float) -> list[float]:
    """A good item whose batch takes BATCH_S."""
    return [SLEEPS, BATCH_S, number, 0.0]


class Arrivals:
    """Requests at fixed times, each on a thread of its own with a kept-alive connection."""

    def __init__(self, service: Service, rate_per_s: float) -> None:
        self._service = service
        self._rate_per_s = rate_per_s
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(256)

    def run(self, seconds: float) -> list[Reply]:
        """Send for so long; returns all answers."""
        start = time.monotonic()
        futures = []
        for number in range(round(seconds * self._rate_per_s)):
            time.sleep(max(0.0, start + number / self._rate_per_s - time.monotonic()))
            futures.append(self._pool.submit(self._send, number % 1000))
        replies = [future.result() for future in futures]
        self._pool.shutdown()
        return replies

    def _send(self, number: int) -> Reply:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        return self._service.post(item(number), self._local.session)


def rate(replies: list[Reply]) -> float:
    """Right answers a second."""
    ended = [reply.ended for reply in replies if reply.is_right]
    return (len(ended) - 1) / (max(ended) - min(ended))


def resident_mib(service: Service) -> float:
    """Memory of the frontend and its workers."""
    process = psutil.Process(service.server.pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 2**20


@pytest.fixture(scope="module")
def service(serve: Serve) -> Any:
    """One worker, and a queue that fills in a moment."""
    with serve(archive="small_queue", batch_size=BATCH_SIZE, max_batch_delay_ms=10) as service:
        yield service


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_three_times_the_capacity(service: Service, figures: dict[str, Any], seconds: int) -> None:
    with Load(service, QUEUE_SIZE // 2, item) as peak_load:
        peak_load.wait_for(round(CAPACITY_PER_S * min(seconds, 10)))
    peak = rate(peak_load.replies)
    assert all(reply.is_right for reply in peak_load.replies), peak_load.statuses()

    before_mib = resident_mib(service)
    replies = Arrivals(service, OVERLOAD * CAPACITY_PER_S).run(seconds)
    after_mib = resident_mib(service)
    refused = [reply for reply in replies if reply.status == 503]
    assert {reply.status for reply in replies} == {200, 503}
    assert all(reply.is_right for reply in replies if reply.status == 200)
    assert {(reply.code, reply.headers["retry-after"]) for reply in refused} == {("overloaded", "1")}, refused[0]

    start = time.monotonic()
    with Load(service, QUEUE_SIZE // 2, item) as after_load:
        after_load.wait_for(round(CAPACITY_PER_S * min(seconds, 5)))
    assert all(reply.is_right for reply in after_load.replies), after_load.statuses()
    waits = sorted(reply.seconds for reply in refused)
    figures[f"overload, {OVERLOAD} x capacity for {seconds} s"] = {
        "peak, 1/s": round(peak, 1),
        "goodput under overload, 1/s": round(rate(replies), 1),
        "share of peak": round(rate(replies) / peak, 2),
        "answered": len(replies) - len(refused),
        "refused": len(refused),
        "refusal p99, s": round(waits[len(waits) * 99 // 100], 3),
        "refusal max, s": round(waits[-1], 3),
        "memory before and after, MiB": [round(before_mib), round(after_mib)],
        "rate in the seconds after, 1/s": round(rate(after_load.replies), 1),
        "after, s": round(time.monotonic() - start, 1),
    }
    assert after_mib < before_mib + 512


def test_the_client_turns_refusals_into_answers(service: Service) -> None:
    with (
        ThreadPoolExecutor(1 + QUEUE_SIZE) as pool,
        Client(service.server.inference_url, service.name) as client,
    ):

        def ask(number: int) -> int:
            answer = client.predict(item(number), deadline_s=120)
            assert answer.json()["result"][2] == 2.0 * number + 1
            return answer.attempts

        def crowd() -> None:
            while not turned.is_set():
                Arrivals(service, OVERLOAD * CAPACITY_PER_S).run(1)

        turned = threading.Event()
        crowding = pool.submit(crowd)
        try:
            while max(pool.map(ask, range(QUEUE_SIZE))) == 1:
                pass  # on a busy machine it takes a while until the queue is full when they come
        finally:
            turned.set()
        crowding.result()
