"""Requests of our own, where nobody else's are there to watch: from clients that wait, or at given moments."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import requests

from smartbatch.client import encode_body
from smartbatch.errors import UsageError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.sample_request import sample_request
from smartbatch.simulation.load import ClosedLoop, Load, OpenLoop

WARM_UP_S = 3.0
TIMEOUT_S = 30.0
_RETRY_S = 0.05
MOST_OUT, LEAST_OUT = 512, 16
OUT_S = 10.0
"""Of an open loop's requests, as many may be out as come in that time, within the two above."""


def probe_body(described: object, file: Path | None) -> tuple[bytes, str]:
    """Body and content type to send.

    Args:
        described: what a worker says of itself.
        file: of the user's; None: the archive's example, or one made up of the model's inputs.

    Raises:
        UsageError: there is no such file, or no telling what the model takes.
    """
    if file is not None:
        if not file.is_file():
            raise UsageError(f"--body must be a file, got {str(file)!r}")
        return encode_body(file)
    sample = sample_request(described)
    if isinstance(sample, str):
        raise UsageError(f"--probe has no request to send: {sample}; give one by --body FILE")
    return sample.body, sample.content_type


class Probe:
    """For the length of a `with` block, clients send a body again and again; entered once that has gone on a while.

    Args:
        endpoints: of the server.
        model: that is asked.
        body: and its content type.
        num_clients: that each wait for an answer before they ask again.
    """

    def __init__(self, endpoints: Endpoints, model: str, body: tuple[bytes, str], num_clients: int) -> None:
        self.num_clients: int | None = num_clients
        """That wait for each answer; None: requests come whether or not others are answered."""
        self.outcomes: Counter[str] = Counter()
        """How requests ended: by HTTP status, or what broke."""
        self._endpoints, self._body = endpoints, body
        self._url = f"{endpoints.inference_url}/predictions/{model}"
        self._ended, self._sending = threading.Event(), threading.Event()
        self._sending.set()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_clients)]

    @property
    def load(self) -> Load:
        """As the model of the server replays it."""
        assert self.num_clients is not None
        return ClosedLoop(self.num_clients)

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        time.sleep(WARM_UP_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sending.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def pause(self) -> None:
        """Send nothing more, until it is to begin again."""
        self._sending.clear()

    def begin_again(self) -> None:
        """Send; whatever is out from before counts no more: of clients that wait, it is a request each."""
        self._sending.set()

    def _run(self) -> None:
        content, content_type = self._body
        token = self._endpoints.inference_token()
        with requests.Session() as session:
            session.trust_env = False
            session.verify = self._endpoints.verify
            session.headers["Content-Type"] = content_type
            if token:
                session.headers["Authorization"] = f"Bearer {token}"
            while self._may_send():
                try:
                    status = str(session.post(self._url, content, timeout=TIMEOUT_S).status_code)
                except requests.RequestException as error:
                    status = type(error).__name__
                self._note(status)

    def _may_send(self) -> bool:
        self._sending.wait()
        return not self._ended.is_set()

    def _note(self, status: str) -> None:
        self.outcomes[status] += 1
        if not status.startswith("2"):
            self._ended.wait(_RETRY_S)


class OpenProbe(Probe):
    """Requests come at given moments, whether or not others are answered; at most `MOST_OUT` are out at a time.

    Args:
        endpoints: of the server.
        model: that is asked.
        body: and its content type.
        arrivals: when; begun anew where they end.
    """

    def __init__(self, endpoints: Endpoints, model: str, body: tuple[bytes, str], arrivals: OpenLoop) -> None:
        out = round(min(MOST_OUT, max(LEAST_OUT, arrivals.requests_per_s * OUT_S)))
        super().__init__(endpoints, model, body, out)
        self.num_clients = None
        self._arrivals = arrivals
        self._lock = threading.Lock()
        self._answered, self._changed = threading.Condition(self._lock), threading.Condition(self._lock)
        self._out = 0
        self._moments: Iterator[float] | None = self._from_now()
        """Of what is still to come; None: nothing may be sent for now."""

    @property
    def load(self) -> Load:
        """As the model of the server replays it."""
        return self._arrivals

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended.set()
            self._changed.notify_all()
        super().__exit__()

    def pause(self) -> None:
        """Send nothing more, until it is to begin again."""
        with self._lock:
            self._moments = None
            self._changed.notify_all()

    def begin_again(self) -> None:
        """Wait until nothing is out, so that a backlog is its setting's own; then requests come as at first."""
        self.pause()
        with self._lock:
            self._answered.wait_for(lambda: not self._out, TIMEOUT_S)
            self._moments = self._from_now()
            self._changed.notify_all()

    def _from_now(self) -> Iterator[float]:
        times_s = self._arrivals.times_s
        # What follows the last one is as far from it as they are from each other.
        period_s = times_s[-1] + 1 / self._arrivals.requests_per_s
        began = time.monotonic()
        return (began + lap * period_s + moment for lap in itertools.count() for moment in times_s)

    def _may_send(self) -> bool:
        with self._lock:
            while not self._ended.is_set():
                moments = self._moments
                if moments is None:
                    self._is_other(moments, None)
                elif not self._is_other(moments, next(moments) - time.monotonic()):
                    self._out += 1
                    return True
        return False

    def _is_other(self, moments: Iterator[float] | None, timeout_s: float | None) -> bool:
        """Wait for an end or a new beginning; whether there was one by then."""
        return self._changed.wait_for(lambda: self._ended.is_set() or self._moments is not moments, timeout_s)

    def _note(self, status: str) -> None:
        self.outcomes[status] += 1
        with self._lock:
            self._out -= 1
            if not self._out:
                self._answered.notify_all()
