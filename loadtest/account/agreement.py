"""Do client and server tell the same story?

Two independent accounts of a run: what the client logged, and by how much the server's own counters grew from
idle to idle. A report that only one of them supports is not worth much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smartbatch_load.account.records import Request
from smartbatch_load.account.series import ServerSample, client_batches

LIMIT = 0.01
"""Discrepancy above which a report warns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """One quantity, told twice."""

    client: float | None
    server: float | None

    @property
    def discrepancy(self) -> float | None:
        """Difference as a share of the larger; None where either account is missing."""
        if self.client is None or self.server is None:
            return None
        larger = max(abs(self.client), abs(self.server))
        return abs(self.client - self.server) / larger if larger else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """The accounts of a run."""

    answers: Account
    """Client: answers of any status, refusals and dead batches included. Server: the frontend's count of them."""
    requests: Account
    """Client: answers that name the batch they were computed in."""
    batches: Account
    """Client: each answer's 1/n of the batch of n that its header names."""
    rps: Account
    """Both over the client's elapsed time: answers with status 2xx."""

    @property
    def within_limit(self) -> bool | None:
        """Whether every discrepancy is at most `LIMIT`; None where nothing could be compared."""
        known = [found for account in self.accounts().values() if (found := account.discrepancy) is not None]
        return max(known) <= LIMIT if known else None

    def accounts(self) -> dict[str, Account]:
        """Each by its name."""
        return {"answers": self.answers, "requests": self.requests, "batches": self.batches, "rps": self.rps}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows: dict[str, Any] = {
            name: asdict(account) | {"discrepancy": account.discrepancy} for name, account in self.accounts().items()
        }
        return rows | {"limit": LIMIT, "within_limit": self.within_limit}


def compare(requests: Sequence[Request], elapsed_s: float, server: Sequence[ServerSample]) -> Agreement:
    """Hold the client's log against the server's counters before the first and after the last request.

    An answer counts as the worker's where it names its batch; the frontend's own ("queue full") do not.
    """
    seen = [r for r in requests if r.status]
    answered = [r for r in requests if r.batch_size > 0]
    good = sum(1 for r in answered if 200 <= r.status < 300)
    server_answers = server_requests = server_batches = server_good = None
    if len(server) >= 2:
        first, last = server[0], server[-1]
        server_requests = last.requests - first.requests
        server_batches = last.batches - first.batches
        server_good = server_requests - (last.failures - first.failures)
        if first.answers is not None and last.answers is not None:
            server_answers = last.answers - first.answers
    return Agreement(
        answers=Account(client=len(seen) if seen else None, server=server_answers),
        requests=Account(client=len(answered) if answered else None, server=server_requests),
        batches=Account(client=client_batches(answered), server=server_batches),
        rps=Account(client=_rate(good, elapsed_s), server=_rate(server_good, elapsed_s)),
    )


def _rate(count: float | None, elapsed_s: float) -> float | None:
    return count / elapsed_s if count is not None and elapsed_s > 0 else None
