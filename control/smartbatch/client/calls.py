"""One prediction: what each attempt sends, and what its end means. No I/O: threads and tasks share it.

What an attempt may end in, and what becomes of it:

Reply 2xx                                the prediction
Reply 503 (full, draining, no worker)    RetryableError: another server, or the same one after a pause
Reply 400 about a token that has expired RetryableError, once, if there is a fresh one
Reply 404 of an unknown model            ModelNotReadyError
any other Reply                          RequestRefusedError
Unreachable                              RetryableError; NotRunningError once the deadline is over
Untrusted                                NotRunningError
OutOfTime                                DeadlineError, or what an earlier attempt ended in
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import tenacity
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import OUTPUTS
from smartbatch_worker.contract.headers import DEADLINE_MS, OUTPUT, START

from smartbatch.client.authorization import Authorization, is_refused
from smartbatch.client.prediction import Prediction
from smartbatch.client.targets import Target, Targets
from smartbatch.errors import (
    DeadlineError,
    ModelNotReadyError,
    NotRunningError,
    RequestRefusedError,
    UsageError,
)

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
_LEAST_S = 0.001
ACCEPTS = {
    "json": media_types.JSON,
    "npy": media_types.NPY,
    "npz": media_types.NPZ,
    "safetensors": media_types.SAFETENSORS,
}
"""The forms of an answer, by the names that `accept` takes."""


class Unreachable(Exception):
    """No connection, or one that broke before the answer was whole."""


class Untrusted(Exception):
    """The server's certificate is not one that is trusted here."""


class OutOfTime(Exception):
    """No whole answer in the time given."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    """Their names in any case."""
    content: bytes


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Of one attempt, seconds."""

    connect_s: float
    total_s: float


class RetryableError(Exception):
    """One attempt failed in a way that a later one may not."""

    def __init__(
        self, final: NotRunningError | RequestRefusedError, retry_after_s: float = 0.0, *, at_once: bool = False
    ) -> None:
        super().__init__(str(final))
        self.final = final
        """What it is if there is no later one."""
        self.retry_after_s = retry_after_s
        self.at_once = at_once
        """Somebody else is asked, or with another token: no pause."""


@dataclass(slots=True)
class Call:
    """One prediction, from the first attempt to the answer."""

    content: bytes
    headers: dict[str, str]
    """All that each attempt carries, but the token."""
    deadline_s: float
    """From the beginning until the answer, all attempts together."""
    connect_s: float
    targets: Targets
    authorization: Authorization
    attempts: int = 0
    tried: set[Target] = field(default_factory=set)
    """Servers that failed since the last pause."""
    began: float = field(default_factory=time.monotonic)
    _has_fresh_token: bool = False
    _failed: RetryableError | None = None

    @property
    def left_s(self) -> float:
        """Until the deadline; never less than a millisecond."""
        return max(self.deadline_s - (time.monotonic() - self.began), _LEAST_S)

    def timeouts(self) -> Timeouts:
        """Of an attempt that begins now."""
        left_s = self.left_s
        return Timeouts(min(self.connect_s, left_s), left_s)

    def sent(self) -> dict[str, str]:
        """The headers of an attempt; the caller's beat ours."""
        self.attempts += 1
        return {**self.authorization.headers(), **self.headers}

    def prediction(self, reply: Reply, target: Target) -> Prediction:
        """What a reply is worth.

        Raises:
            RetryableError: a later attempt may be answered otherwise.
            RequestRefusedError: an error status.
            ModelNotReadyError: the server knows no such model.
        """
        if 200 <= reply.status < 300:
            self.targets.succeeded(target)
            seconds = time.monotonic() - self.began
            return Prediction(reply.content, reply.headers, self.attempts, seconds, target.base_url)
        code, message = _error_of(reply)
        refusal = RequestRefusedError(reply.status, code, message)
        if reply.status == 503:
            raise self._retryable(refusal, target, _retry_after_s(reply))
        if is_refused(reply.status, code, message) and not self._has_fresh_token and self.authorization.renew():
            self._has_fresh_token = True
            raise RetryableError(refusal, at_once=True)
        self.targets.succeeded(target)  # it lives, and said so
        if reply.status == 404:
            raise ModelNotReadyError(message)
        raise refusal

    def unanswered(self, error: Exception, target: Target) -> Exception:
        """What it means that an attempt ended without a reply."""
        url = target.predictions_url
        if isinstance(error, OutOfTime):
            return DeadlineError(f"no answer from {url} within {self.deadline_s:g} s")
        if isinstance(error, Untrusted):
            return NotRunningError(f"{url} is not trusted: {error}")
        why = f" ({error})" if str(error) else ""
        return self._retryable(NotRunningError(f"no server answers at {url}{why}"), target)

    def _retryable(
        self, final: NotRunningError | RequestRefusedError, target: Target, retry_after_s: float = 0.0
    ) -> RetryableError:
        self.targets.failed(target, retry_after_s)
        self.tried.add(target)
        elsewhere = self.targets.has_other(self.tried)
        if not elsewhere:
            self.tried.clear()
        self._failed = RetryableError(final, retry_after_s, at_once=elsewhere)
        return self._failed

    @contextmanager
    def told_plainly(self) -> Iterator[None]:
        """Errors within are what the caller is told: the last thing a server said, rather than that time is over."""
        try:
            yield
        except RetryableError as e:
            raise e.final from e
        except DeadlineError as e:
            if self._failed is None:
                raise
            # The last attempt may have had a millisecond: what the server said before tells more.
            raise self._failed.final from e

    def stop(self) -> tenacity.stop.stop_base:
        """Not to wait beyond the deadline."""
        return tenacity.stop_before_delay(self.left_s)


RETRY = tenacity.retry_if_exception_type(RetryableError)


def backoff(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt: full jitter, and no sooner than the server said."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RetryableError) and error.at_once:
        return 0.0
    jittered = tenacity.wait_random_exponential(multiplier=_FIRST_BACKOFF_S, max=_MAX_BACKOFF_S)(state)
    return jittered + (error.retry_after_s if isinstance(error, RetryableError) else 0.0)


def request_headers(
    content_type: str, deadline_s: float, output: str | None, accept: str | None, headers: Mapping[str, str] | None
) -> dict[str, str]:
    """What every attempt of a call carries; the moment it began, so that retries do not buy time.

    Raises:
        DeadlineError: the deadline is not ahead.
        UsageError: an output or a form of answers that there is not.
    """
    if deadline_s <= 0:
        raise DeadlineError(f"the deadline must be above 0 s, got {deadline_s:g} s")
    sent = {
        "Content-Type": content_type,
        START: f"{time.time():.6f}",
        DEADLINE_MS: str(max(1, round(deadline_s * 1000))),
    }
    if output is not None:
        if output not in OUTPUTS:
            raise UsageError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        sent[OUTPUT] = output
    if accept is not None:
        if accept not in ACCEPTS:
            raise UsageError(f"accept must be one of {', '.join(ACCEPTS)}, got {accept!r}")
        sent["Accept"] = ACCEPTS[accept]
    return {**sent, **(headers or {})}


def raising_first(error: RetryableError) -> Callable[[], None]:
    """For a loop of retries whose first attempt has been made: raises its error, once."""
    left = [error]

    def check() -> None:
        if left:
            raise left.pop()

    return check


def _retry_after_s(reply: Reply) -> float:
    """Retry-After in seconds; 0 where it is missing or a date."""
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _error_of(reply: Reply) -> tuple[str, str]:
    """(code, message) of an error answer, the handler's or the frontend's."""
    try:
        parsed = json.loads(reply.content)
        error = parsed.get("error", parsed)
        code = error.get("type") or error.get("code", "")  # the frontend's code is but the status again
        return str(code), str(error["message"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return "", reply.content.decode(errors="replace").strip() or f"HTTP status {reply.status}"
