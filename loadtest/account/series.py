"""Per-second series and totals of a run, from what was recorded of it.

Percentiles are exact: nearest rank over every request, nothing binned.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smartbatch_load.account.records import Request, Tick


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile of ascending `values`: the smallest that `share` of them do not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    assert 0 < share <= 1
    if not values:
        return None
    return values[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


@dataclass(frozen=True, slots=True)
class ServerSample:
    """The server's counters at one moment, summed over the models of the run."""

    unix_s: float
    requests: float
    """Requests the worker answered, any status."""
    failures: float
    """Those of them with another status than 2xx."""
    batches: float
    batched_requests: float
    """Sum of batch sizes."""
    queue_depth: float | None
    """Requests waiting; None where the server did not say."""
    answers: float | None = None
    """Requests that got an answer over HTTP, refusals included; None where the frontend runs as it came."""


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a run."""

    second: int
    """Whole seconds since the start; the row covers [second, second + 1)."""
    users: int
    rps: float
    """Correct answers a second."""
    failures: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    avg_batch_size: float | None
    """From the server's counters; None where no batch ended."""
    queue_depth: float | None
    lag_s: float
    """How late the generator's event loop woke at worst."""


def per_second(
    requests: Iterable[Request], ticks: Iterable[Tick], samples: Sequence[ServerSample], start_unix_s: float
) -> list[Second]:
    """Bin a run by whole seconds since its start; a request counts in the second its answer came.

    Percentiles of a second are over its correct answers. Users, batch size and queue depth are the last ones
    known in it.
    """
    latencies: dict[int, list[float]] = defaultdict(list)
    failures: Counter[int] = Counter()
    for request in requests:
        second = int(request.end_unix_s - start_unix_s)
        if request.ok:
            latencies[second].append(request.latency_s)
        else:
            failures[second] += 1
    users: dict[int, dict[str, int]] = defaultdict(dict)
    lag: dict[int, float] = defaultdict(float)
    for tick in ticks:
        second = int(tick.unix_s - start_unix_s)
        users[second][tick.process] = tick.users
        lag[second] = max(lag[second], tick.lag_s)
    batch, queue = _server_seconds(samples, start_unix_s)
    seen = [*latencies, *failures, *users, *queue]
    known_users: dict[str, int] = {}
    rows = []
    for second in range(max(seen, default=-1) + 1):
        known_users.update(users.get(second, {}))
        ok = sorted(latencies.get(second, []))
        rows.append(
            Second(
                second=second,
                users=sum(known_users.values()),
                rps=float(len(ok)),
                failures=failures[second],
                p50_s=percentile(ok, 0.50),
                p95_s=percentile(ok, 0.95),
                p99_s=percentile(ok, 0.99),
                avg_batch_size=batch.get(second),
                queue_depth=queue.get(second),
                lag_s=lag[second],
            )
        )
    return rows


def _server_seconds(samples: Sequence[ServerSample], start_unix_s: float) -> tuple[dict[int, float], dict[int, float]]:
    """Average batch size and queue depth by second."""
    batch: dict[int, float] = {}
    queue: dict[int, float] = {}
    for before, after in itertools.pairwise(samples):
        second = int(after.unix_s - start_unix_s)
        if second < 0:
            continue
        if after.batches > before.batches:
            batch[second] = (after.batched_requests - before.batched_requests) / (after.batches - before.batches)
        if after.queue_depth is not None:
            queue[second] = after.queue_depth
    return batch, queue


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """A whole run, or the measured window of one, in a few numbers."""

    requests: int
    """Requests that ended, failed ones included."""
    failures: int
    batches: float | None
    """Batches the server counted; without its counters, what the answers' headers add up to."""
    avg_batch_size: float | None
    rps: float
    """Correct answers a second."""
    elapsed_s: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    mean_s: float | None
    max_s: float | None


def client_batches(requests: Iterable[Request]) -> float | None:
    """Batches as the answers tell it: each brings its 1/n of a batch of n. None where they don't say."""
    shares = [1 / r.batch_size for r in requests if r.batch_size > 0]
    return math.fsum(shares) if shares else None


def totals(requests: Sequence[Request], elapsed_s: float, server: Sequence[ServerSample] = ()) -> Totals:
    """Sum a run up.

    Args:
        requests: those that ended in the time looked at.
        elapsed_s: that time.
        server: counters from an idle server before and an idle server after, if they can be had.
    """
    latencies = sorted(r.latency_s for r in requests if r.ok)
    batches: float | None
    batched: float | None
    if len(server) >= 2:
        batches = server[-1].batches - server[0].batches
        batched = server[-1].batched_requests - server[0].batched_requests
    else:
        batches = client_batches(requests)
        batched = float(sum(1 for r in requests if r.batch_size > 0))
    return Totals(
        requests=len(requests),
        failures=sum(1 for r in requests if not r.ok),
        batches=batches,
        avg_batch_size=batched / batches if batches else None,
        rps=len(latencies) / elapsed_s if elapsed_s > 0 else 0.0,
        elapsed_s=elapsed_s,
        p50_s=percentile(latencies, 0.50),
        p95_s=percentile(latencies, 0.95),
        p99_s=percentile(latencies, 0.99),
        mean_s=math.fsum(latencies) / len(latencies) if latencies else None,
        max_s=latencies[-1] if latencies else None,
    )


def failure_counts(requests: Iterable[Request]) -> dict[str, int]:
    """How often each failure happened, most frequent first."""
    counts = Counter(f"{r.source}: {r.error}" for r in requests if not r.ok)
    return dict(counts.most_common())
