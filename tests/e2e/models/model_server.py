"""One server for many models: archives made in this process, registered and removed one by one, asked at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.remote.management import ManagementClient

from tests.archived import archived
from tests.e2e.serve_process import Served

TIMEOUT_S = 300
"""Of a worker's start and of an answer; generous, since a machine may be busy."""


class ModelServer:
    """A running server, and the model store that it serves from.

    Args:
        store: folder for the archives.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.served: Served
        """Known once it runs."""

    def archive(self, name: str, **keys: Any) -> Path:
        """Build an archive, checked in this process."""
        return archived(ArchiveSettings(name=name, output=self.store, **keys))

    @contextmanager
    def serving(self, *names: str, batch_size: int = 64, max_batch_delay_ms: int = 50) -> Iterator[None]:
        """One worker of each, for the length of the block.

        Args:
            names: of archives in the store.
            batch_size: a batch of so many does not wait.
            max_batch_delay_ms: what a smaller one waits for more.
        """
        with ManagementClient.for_state(self.served.state) as client:
            for name in names:
                client.register(
                    f"{name}.mar", name, batch_size=batch_size, max_batch_delay_ms=max_batch_delay_ms, workers=1
                )
            try:
                for name in names:
                    client.wait_ready(name, TIMEOUT_S)
                yield
            finally:
                for name in names:
                    client.unregister(name)

    @property
    def url(self) -> str:
        """Where clients send requests."""
        return self.served.inference_url

    def post(self, model: str, **request: Any) -> requests.Response:
        """One request.

        Proxies are not looked for: pytest changes the environment between tests, and a thread may be reading it then.
        """
        with requests.Session() as session:
            session.trust_env = False
            return session.post(f"{self.url}/predictions/{model}", timeout=TIMEOUT_S, **request)

    def at_once(self, model: str, asked: Sequence[Mapping[str, Any]]) -> list[requests.Response]:
        """All of these together; every one is answered 200."""
        with ThreadPoolExecutor(len(asked)) as pool:
            replies = list(pool.map(lambda request: self.post(model, **request), asked))
        assert [reply.status_code for reply in replies] == [200] * len(asked), [reply.text[:300] for reply in replies]
        return replies

    def metrics(self) -> list[Metric]:
        """What the server counts."""
        text = requests.get(f"{self.served.state.metrics_url}/metrics", timeout=30).text
        return list(text_string_to_metric_families(text))


def results(replies: Sequence[requests.Response]) -> list[Any]:
    """What stands in answers of JSON."""
    return [reply.json()["result"] for reply in replies]


def num_forwards(replies: Sequence[requests.Response]) -> float:
    """How many forwards these answers came from, where nothing else was asked meanwhile."""
    return sum(1 / int(reply.headers["X-SmartBatch-Forward-Size"]) for reply in replies)


def share_batches(replies: Sequence[requests.Response]) -> bool:
    """Whether requests were handed over together."""
    return max(int(reply.headers["X-SmartBatch-Batch-Size"]) for reply in replies) > 1
