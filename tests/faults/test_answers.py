"""10,000 good and hostile requests at once (800 in CI): the good answered right, the hostile alone."""

from __future__ import annotations

import http.client
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.remote.scrape import scrape
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server

from tests.faults.archives import derive
from tests.faults.kinds import KINDS, MAX_RESPONSE_BYTES, Sent

MODELS = Path(__file__).parent / "models"
NUM_CLIENTS = 32
TIMEOUT_S = 120
WORKERS = {"seen": 2, "line": 2, "uneven": 1, "parts": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serves the models of answering.py."""
    store = tmp_path_factory.mktemp("store")
    common: dict[str, Any] = {"model_file": MODELS / "answering.py", "output": store}
    build_archive(
        ArchiveSettings(
            name="line",
            input_shape="3",
            handler=MODELS / "answering_handler.py",
            overrides={"model_class": "Line", "threads": "1"},
            **common,
        )
    )
    overrides = {"model_class": "Uneven", "threads": "1"}
    uneven = build_archive(ArchiveSettings(name="uneven", input_shape="2", overrides=overrides, **common))
    derive(uneven, store / "parts.mar", {}, {"model_class": "Parts"})
    picture = {"image_resize": 64, "image_crop": 64, "image_mean": [0, 0, 0], "image_std": [1, 1, 1], "output": "raw"}
    derive(uneven, store / "seen.mar", {}, {"model_class": "Seen", "input_shape": [3, None, None], **picture})
    running = start_server(
        ServerSettings(
            model_store=store,
            run_dir=tmp_path_factory.mktemp("run"),
            inference_port=0,
            management_port=0,
            metrics_port=0,
            properties={"max_response_size": str(MAX_RESPONSE_BYTES)},
        )
    )
    try:
        with running.management() as client:
            for name, workers in WORKERS.items():
                client.register(f"{name}.mar", name, batch_size=16, max_batch_delay_ms=5, workers=workers)
            for name in WORKERS:
                client.wait_ready(name, TIMEOUT_S)
        yield running
    finally:
        running.stop(grace_s=0)


@pytest.fixture(scope="module")
def from_workers() -> list[str]:
    """Which kind each request was that a worker answered, not the frontend by itself, since the server's start.

    So many are the workers' count in the end. What it was when a test began, nobody can ask: it lags by a moment.
    """
    return []


def worker_pids(server: RunningServer) -> set[int]:
    with server.management() as client:
        return {worker.pid for name in WORKERS for worker in client.describe(name).workers}


class Client:
    """One kept-alive connection."""

    def __init__(self, server: RunningServer, from_workers: list[str]) -> None:
        url = urlsplit(server.inference_url)
        assert url.hostname is not None
        self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_S)
        self.close = self._connection.close
        self._from_workers = from_workers

    def complaint(self, name: str, sent: Sent) -> str | None:
        """What is wrong with the answer; None where nothing is."""
        self._connection.request("POST", sent.path, sent.body, dict(sent.headers))
        reply = self._connection.getresponse()
        body = reply.read()
        if "X-SmartBatch-Batch-Size" in reply.headers:
            self._from_workers.append(name)
        if reply.status != sent.status:
            return f"{name}: {reply.status} instead of {sent.status}: {body[:200]!r}"
        if sent.status != 200:
            found = json.loads(body)
            return None if set(found["error"]) == {"code", "message"} else f"{name}: {body[:200]!r}"
        numbers = (
            np.load(io.BytesIO(body)).tolist()
            if reply.headers["Content-Type"] == "application/x-npy"
            else json.loads(body)["result"]
        )
        is_right = np.shape(numbers) == np.shape(sent.numbers) and np.allclose(
            numbers, sent.numbers, rtol=0, atol=sent.tolerance
        )
        return None if is_right else f"{name}: {numbers} instead of {sent.numbers}"


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_alone(server: RunningServer, from_workers: list[str], name: str) -> None:
    with closing(Client(server, from_workers)) as client:
        for n in (0, 3):
            assert client.complaint(name, KINDS[name](n)) is None


@pytest.mark.parametrize("count", [800, pytest.param(10_000, marks=pytest.mark.slow)])
def test_all_kinds_at_once(server: RunningServer, from_workers: list[str], count: int) -> None:
    before = worker_pids(server)
    scraped_before = scrape(server.metrics_url)
    order = np.random.default_rng(0).permutation(count)
    names = list(KINDS)

    def send(numbers: Sequence[int]) -> list[str]:
        with closing(Client(server, from_workers)) as client:
            sent = [(name := names[n % len(names)], KINDS[name](int(n) // len(names))) for n in numbers]
            return [complaint for entry in sent if (complaint := client.complaint(*entry)) is not None]

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        complaints = [text for of_one in pool.map(send, np.array_split(order, NUM_CLIENTS)) for text in of_one]
    assert not complaints, (len(complaints), Counter(text.partition(":")[0] for text in complaints), complaints[:5])
    assert worker_pids(server) == before
    # The frontend's account has every request, the workers' those that it let through.
    http_requests = scraped_before.request_counter()
    expected = {
        http_requests: scraped_before.total(http_requests) + count,
        "smartbatch_requests_total": len(from_workers),
    }

    def answered() -> dict[str, float]:
        now = scrape(server.metrics_url)
        return {name: now.total(name) for name in expected}

    deadline = time.monotonic() + TIMEOUT_S
    while answered() != expected and time.monotonic() < deadline:
        time.sleep(0.1)  # metrics come a moment after their answers
    assert answered() == expected, "every request is counted once, and nobody writes metrics but the workers"
