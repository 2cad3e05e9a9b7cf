"""Call a model: any body, connections reused, retries within the caller's deadline.

with Client("http://127.0.0.1:8080", "resnet18") as client:
    print(client.predict(Path("cat.jpg"), deadline_s=2).json())
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import requests
import tenacity
from requests.adapters import HTTPAdapter
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.headers import BATCH_SIZE, DEADLINE_MS, FORWARD_SIZE, START
from urllib3.util import Timeout

from smartbatch.errors import DeadlineError, ModelNotReadyError, NotRunningError, RequestRefusedError
from smartbatch.server.ports import is_loopback

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
_MAX_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer."""

    content: bytes
    headers: Mapping[str, str]
    attempts: int
    """Requests it took: 1, plus one for each retry."""
    seconds: float
    """From the first attempt to the answer."""

    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.content)

    @property
    def batch_size(self) -> int | None:
        """How many requests shared the batch; None from a handler that does not say."""
        return self._number(BATCH_SIZE)

    @property
    def forward_size(self) -> int | None:
        """How many items shared the forward; None from a handler that does not say."""
        return self._number(FORWARD_SIZE)

    def _number(self, header: str) -> int | None:
        text = self.headers.get(header)
        return None if text is None else int(text)


class _RetryableError(Exception):
    """One attempt failed in a way that a later one may not."""

    def __init__(self, final: NotRunningError | RequestRefusedError, retry_after_s: float = 0.0) -> None:
        super().__init__(str(final))
        self.final = final
        self.retry_after_s = retry_after_s


class Client:
    """Sends requests to one model; may be shared by threads.

    A 503 (queue full, draining) and a connection that fails are retried, with exponential backoff and full jitter and
    no sooner than Retry-After says, as long as the deadline allows. Every attempt carries the deadline, so that the
    server drops a request whose caller has given up.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        token: str | None = None,
        *,
        deadline_s: float = 60.0,
        verify: bool | str = True,
    ) -> None:
        self._url = f"{base_url.rstrip('/')}/predictions/{quote(model)}"
        self._deadline_s = deadline_s
        self._session = requests.Session()
        self._session.verify = verify
        self._session.trust_env = not is_loopback(urlsplit(base_url).hostname or "")
        adapter = HTTPAdapter(pool_maxsize=_MAX_CONNECTIONS)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def predict(
        self, body: Any, *, deadline_s: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Prediction:
        """Send one request and wait for its answer.

        Args:
            body: bytes as they are; a Path by its extension; a numpy array as .npy; lists and numbers as {"data": ...};
                a dict as JSON.
            deadline_s: from now until the answer, all attempts together; None takes the client's.
            headers: sent besides the client's own, and beating them.

        Raises:
            DeadlineError: no answer in time, and no refusal either.
            NotRunningError: no server answered, up to the deadline.
            ModelNotReadyError: the server knows no such model.
            RequestRefusedError: an error status; a 503 only after retries up to the deadline.
        """
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        if deadline_s <= 0:
            raise DeadlineError(f"the deadline must be above 0 s, got {deadline_s:g} s")
        content, content_type = encode_body(body)
        sent = {
            "Content-Type": content_type,
            START: f"{time.time():.6f}",
            DEADLINE_MS: str(max(1, round(deadline_s * 1000))),
            **(headers or {}),
        }
        start = time.monotonic()
        attempts = 0
        failed: _RetryableError | None = None
        try:
            for attempt in tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(_RetryableError),
                wait=_backoff,
                stop=tenacity.stop_before_delay(deadline_s),
                reraise=True,
            ):
                with attempt:
                    attempts += 1
                    try:
                        reply = self._attempt(content, sent, deadline_s - (time.monotonic() - start), deadline_s)
                    except _RetryableError as e:
                        failed = e
                        raise
                    except DeadlineError as e:
                        if failed is None:
                            raise
                        # The last attempt may have had a millisecond: what the server said before tells more.
                        raise failed.final from e
        except _RetryableError as e:
            raise e.final from e
        return Prediction(reply.content, reply.headers, attempts, time.monotonic() - start)

    def _attempt(
        self, content: bytes, headers: Mapping[str, str], left_s: float, deadline_s: float
    ) -> requests.Response:
        try:
            timeout: Any = Timeout(total=max(left_s, 0.001))  # requests takes urllib3's; its type stubs do not know
            reply = self._session.post(self._url, data=content, headers=dict(headers), timeout=timeout)
        except requests.Timeout as e:
            raise DeadlineError(f"no answer from {self._url} within {deadline_s:g} s") from e
        except requests.exceptions.SSLError as e:
            raise NotRunningError(f"{self._url} is not trusted: {e}") from e
        except requests.ConnectionError as e:
            raise _RetryableError(NotRunningError(f"no server answers at {self._url}")) from e
        if reply.ok:
            return reply
        code, message = _error_of(reply)
        refusal = RequestRefusedError(reply.status_code, code, message)
        if reply.status_code == 503:
            raise _RetryableError(refusal, _retry_after_s(reply))
        if reply.status_code == 404:
            raise ModelNotReadyError(message)
        raise refusal

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def encode_body(body: Any) -> tuple[bytes, str]:
    """The bytes to send for `body`, and their content type."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), media_types.ANY
    if isinstance(body, os.PathLike):
        path = Path(body)
        return path.read_bytes(), media_types.BY_SUFFIX.get(path.suffix.lower(), media_types.ANY)
    if isinstance(body, (list, tuple, int, float)):
        body = {"data": body}
    if isinstance(body, dict):
        return json.dumps(body).encode(), media_types.JSON
    if hasattr(body, "__array__"):
        import numpy as np

        buffer = BytesIO()
        np.save(buffer, np.asarray(body), allow_pickle=False)
        return buffer.getvalue(), media_types.NPY
    raise TypeError(f"a body is bytes, a Path, an array, a list, a number or a dict, got {type(body).__name__}")


def _backoff(state: tenacity.RetryCallState) -> float:
    jittered = tenacity.wait_random_exponential(multiplier=_FIRST_BACKOFF_S, max=_MAX_BACKOFF_S)(state)
    error = state.outcome.exception() if state.outcome else None
    return jittered + (error.retry_after_s if isinstance(error, _RetryableError) else 0.0)


def _retry_after_s(reply: requests.Response) -> float:
    """Retry-After in seconds; 0 where it is missing or a date."""
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _error_of(reply: requests.Response) -> tuple[str, str]:
    """(code, message) of an error answer, the handler's or the frontend's."""
    try:
        parsed = reply.json()
        error = parsed.get("error", parsed)
        code = error.get("type") or error.get("code", "")  # the frontend's code is but the status again
        return str(code), str(error["message"])
    except (ValueError, KeyError, AttributeError):
        return "", reply.text.strip() or reply.reason
