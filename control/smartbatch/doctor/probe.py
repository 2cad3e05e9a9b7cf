"""Requests of our own, where nobody else's are there to watch: clients that each wait for their answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import requests

from smartbatch.client import encode_body
from smartbatch.errors import UsageError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.sample_request import sample_request

WARM_UP_S = 3.0
TIMEOUT_S = 30.0
_RETRY_S = 0.05


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
        self.num_clients = num_clients
        self.outcomes: Counter[str] = Counter()
        """How requests ended: by HTTP status, or what broke."""
        self._endpoints, self._body = endpoints, body
        self._url = f"{endpoints.inference_url}/predictions/{model}"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_clients)]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        time.sleep(WARM_UP_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def _run(self) -> None:
        content, content_type = self._body
        token = self._endpoints.inference_token()
        with requests.Session() as session:
            session.trust_env = False
            session.verify = self._endpoints.verify
            session.headers["Content-Type"] = content_type
            if token:
                session.headers["Authorization"] = f"Bearer {token}"
            while not self._ended.is_set():
                try:
                    status = str(session.post(self._url, content, timeout=TIMEOUT_S).status_code)
                except requests.RequestException as error:
                    status = type(error).__name__
                self.outcomes[status] += 1
                if not status.startswith("2"):
                    self._ended.wait(_RETRY_S)
