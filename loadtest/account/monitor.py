"""Looks at the server and at the load generator once a second while a run goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from smartbatch.errors import SmartBatchError
from smartbatch.remote.scrape import Samples, scrape
from smartbatch_load.account.counters import counters
from smartbatch_load.account.series import ServerSample
from smartbatch_load.load.target import Target

PERIOD_S = 1.0
DEAD_AFTER = 3
"""Looks in a row without anyone listening, after which a server that is not ours counts as gone."""
SETTLE_S = 5.0


class Monitor:
    """A thread that samples; `death` says when the server is gone.

    Samples go to `server.jsonl` as they are taken.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.samples: list[ServerSample] = []
        self.cpu_percents: list[list[float]] = []
        """CPU of each generator process, percent of a core, once a second."""
        self.death: str | None = None
        self.first: Samples | None = None
        self.last: Samples | None = None
        self._target = target
        self._log = folder / "server.jsonl"
        self._silent = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, generator_cpu: Callable[[], list[float]]) -> None:
        """Look once a second from now on."""
        generator_cpu()  # the first call only sets the mark
        self._thread = threading.Thread(target=self._run, args=(generator_cpu,), name="monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def settle(self) -> None:
        """Take the counters of an idle server: they reach the endpoint a little later than the answers do."""
        deadline = time.monotonic() + SETTLE_S
        previous: ServerSample | None = None
        while time.monotonic() < deadline:
            self._sample()
            current = self.samples[-1] if self.samples else None
            if current is None or (previous and _counts(current) == _counts(previous)):
                break
            previous = current
            time.sleep(0.4)
        if self._thread is None:  # before the run: only the settled counters are its beginning
            self.samples, self.first = self.samples[-1:], self.last

    def _run(self, generator_cpu: Callable[[], list[float]]) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            due += PERIOD_S
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            self.cpu_percents.append(generator_cpu())
            if not self._sample():
                self._look_for_death()

    def _sample(self) -> bool:
        """Take the counters; False where nobody gave any."""
        if self._target.metrics_url is None:
            return False
        try:
            scraped = scrape(self._target.metrics_url, timeout_s=5.0)
            sample = counters(scraped, self._target.model, time.time(), self._queue_depth())
        except SmartBatchError:
            return False
        self._silent = 0
        self.first, self.last = self.first or scraped, scraped
        self.samples.append(sample)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(sample)) + "\n")
        return True

    def _queue_depth(self) -> float | None:
        try:
            return self._target.queue_depth()
        except SmartBatchError:
            return None

    def _look_for_death(self) -> None:
        server = self._target.server
        if server is not None and not server.is_alive:
            self.death = f"the server (pid {server.pid}) is gone; its log is {server.run_dir / 'logs'}"
        elif self._target.answers_ping():
            self._silent = 0
        else:
            self._silent += 1
            if self._silent >= DEAD_AFTER:
                where = self._target.inference_url
                self.death = f"nothing listens at {where} any more ({DEAD_AFTER} looks in a row)"


def _counts(sample: ServerSample) -> tuple[float, float | None]:
    return sample.requests, sample.answers
