"""Which of several servers is asked: the one that owes the fewest answers, of those that are not set aside.

A server that refuses a connection or answers 503 is set aside for a time that doubles with each failure in a row; then
it is asked whether the model is ready (`readiness`) before it gets requests again. No I/O, no thread: whoever calls
`pick` is told to ask. A server alone is never set aside, for there is nobody else to ask.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from smartbatch.errors import UsageError

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
CHECK_S = 1.0
"""How long a server may take to say that it is ready: the request that asks first waits for it."""


@dataclass(eq=False, slots=True)
class Target:
    """One server."""

    base_url: str
    predictions_url: str
    num_outstanding: int = 0
    """Requests sent and not answered yet, by this client."""
    num_failures: int = 0
    """In a row; 0: it takes requests."""
    aside_until_s: float = 0.0
    """By the monotonic clock."""
    checked_until_s: float = 0.0
    """By the monotonic clock: somebody asks it whether it is ready, and will know by then."""


class Targets:
    """The servers of one model; may be shared by threads."""

    def __init__(self, base_urls: str | Sequence[str], model: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Check the addresses.

        Raises:
            UsageError: one is not http:// or https:// with a host, or there is none.
        """
        urls = [base_urls] if isinstance(base_urls, str) else list(base_urls)
        if not urls:
            raise UsageError("base_url must be an address, or a list of at least one, got none")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(f"base_url must begin with http:// or https:// and name a host, got {url!r}")
        plain = list(dict.fromkeys(url.rstrip("/") for url in urls))
        self._targets = [Target(url, f"{url}/predictions/{quote(model)}") for url in plain]
        self._clock = clock
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def hosts(self) -> set[str]:
        """The hosts' names."""
        return {urlsplit(target.base_url).hostname or "" for target in self._targets}

    def pick(self, tried: Collection[Target] = ()) -> tuple[Target, bool]:
        """The server to ask next.

        Args:
            tried: those that failed this call just now; asked only where there is no other.

        Returns:
            It, and whether it must first be asked if it is ready; then tell `succeeded` or `failed`, and pick anew.
        """
        if len(self._targets) == 1:
            return self._targets[0], False
        now = self._clock()
        with self._lock:
            for target in self._targets:
                is_due = target.num_failures and max(target.aside_until_s, target.checked_until_s) <= now
                if is_due and target not in tried:
                    target.checked_until_s = now + CHECK_S  # one caller asks, the others do not wait for it
                    return target, True
            taking = [target for target in self._targets if not target.num_failures]
            free = [target for target in taking if target not in tried] or taking
            if not free:
                return min(self._targets, key=lambda target: (target in tried, target.aside_until_s)), False
            fewest = min(target.num_outstanding for target in free)
            return random.choice([target for target in free if target.num_outstanding == fewest]), False

    def has_other(self, tried: Collection[Target]) -> bool:
        """Whether a server that was not tried takes requests."""
        return any(not target.num_failures and target not in tried for target in self._targets)

    @contextmanager
    def asked(self, target: Target) -> Iterator[None]:
        """While the block runs, the server owes an answer."""
        with self._lock:
            target.num_outstanding += 1
        try:
            yield
        finally:
            with self._lock:
                target.num_outstanding -= 1

    def succeeded(self, target: Target) -> None:
        """It answered: it takes requests."""
        if target.num_failures:
            with self._lock:
                target.num_failures = 0
                target.checked_until_s = 0.0

    def failed(self, target: Target, retry_after_s: float = 0.0) -> None:
        """It did not, or refused: set it aside, for no less than it asked for."""
        with self._lock:
            now = self._clock()
            if not target.num_failures or target.aside_until_s <= now:  # not once more for each request in flight
                target.num_failures += 1
            target.checked_until_s = 0.0
            pause_s = max(_pause_s(target.num_failures), retry_after_s)
            target.aside_until_s = max(target.aside_until_s, now + pause_s)


def _pause_s(num_failures: int) -> float:
    """Half a second, doubled with each failure in a row, 30 s at most; up to a half less, so that clients part ways."""
    longest_s: float = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (num_failures - 1))
    return random.uniform(longest_s / 2, longest_s)
