"""Requests that are refused, and queues that are too short, or only too long to be good for anybody."""

from __future__ import annotations

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis

LARGE = 10_000
"""Bytes of a body; smaller ones fill no heap."""
BATCHES_WAITING = 2
"""A queue shorter than this many batches a worker runs empty, or over, between two of them."""


def too_short(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Requests are refused though the workers could have taken them soon."""
    enough = _enough(evidence)
    if not _is_full(evidence) or evidence.queue_capacity >= enough:
        return None
    return Finding(
        illness="queue-too-short",
        model=evidence.model,
        severity=Severity.FAILING,
        share=_share(evidence),
        evidence=(
            f"{_refused(evidence)}: it holds {evidence.queue_capacity}, while {len(evidence.status.workers)} worker(s) "
            f"take {evidence.status.batch_size} at a time"
        ),
        consequence="a burst of a few batches is refused with 503, though it would be answered in moments",
        cure=f"smartbatch retune {evidence.model} --set jobQueueSize={max(1000, 4 * enough)}",
    )


def overloaded(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """More comes than the machine can do: a longer queue would only make it later."""
    if not _is_full(evidence) or evidence.queue_capacity < _enough(evidence) or not _has_worker(evidence):
        return None
    rate = evidence.view.batches_per_s * (evidence.view.avg_batch_size or 0)
    wait = f"; at {rate:.0f} answers a second a full queue is {evidence.queue_capacity / rate:.1f} s" if rate else ""
    said = "" if evidence.server.is_mended else "; TorchServe's own frontend then says 'has no worker to serve'"
    return Finding(
        illness="overloaded",
        model=evidence.model,
        severity=Severity.FAILING,
        share=_share(evidence),
        evidence=f"{_refused(evidence)}, all {evidence.queue_capacity} places of it{wait}",
        consequence=f"more comes than this machine answers, with its workers READY: the rest gets 503{said}",
        cure=(
            "fewer requests or more machines: `smartbatch capacity` measures what one holds; clients that retry with "
            "backoff and send deadlines lose least (docs/reliability.md)"
        ),
    )


def over_heap(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Bodies fill what the frontend may hold before the queue is full."""
    held, most = evidence.held_bytes, evidence.most_held_bytes
    if held is None or not most or evidence.is_since_start:
        return None
    body = held / max(1, evidence.in_flight)
    if body < LARGE or evidence.queue_capacity * body <= most:
        return None
    fit = max(1, int(most / body))
    refused = _num_refused(evidence)
    so = f"{refused:.0f} requests in {evidence.seconds:.0f} s were refused already" if refused else "a burst finds out"
    return Finding(
        illness="queue-over-heap",
        model=evidence.model,
        severity=Severity.FAILING if refused and evidence.status.queue_remaining else Severity.NOTE,
        share=1.0 if refused else 0.0,
        evidence=(
            f"{held / 1e6:.0f} MB of requests are held now, {body / 1e6:.2g} MB each or more; the frontend holds "
            f"{most / 1e6:.0f} MB at most, and the queue says {evidence.queue_capacity}"
        ),
        consequence=f"about {fit} requests fit: the next is refused with 503 while the queue looks empty; {so}",
        cure=(
            f"smartbatch retune {evidence.model} --set jobQueueSize={fit}"
            if not refused
            else "more for bodies: SMARTBATCH_MAX_BYTES_IN_FLIGHT and -XX:MaxRAMPercentage, at the next start; or "
            "smaller bodies (docs/formats.md)"
        ),
    )


def _is_full(evidence: Evidence) -> bool:
    """The queue was full while we watched, or is now; TorchServe's own frontend counts nowhere what it refuses."""
    status = evidence.status
    return bool(_num_refused(evidence)) or (status.queue_remaining == 0 and status.pending_requests > 0)


def _num_refused(evidence: Evidence) -> float:
    """Of this model; reasons are counted for the whole server, statuses by model."""
    return min(evidence.statuses.get("503", 0.0), evidence.rejected.get("overloaded", 0.0))


def _enough(evidence: Evidence) -> int:
    return BATCHES_WAITING * evidence.status.batch_size * max(1, len(evidence.status.workers))


def _has_worker(evidence: Evidence) -> bool:
    return any(worker.status == "READY" for worker in evidence.status.workers)


def _share(evidence: Evidence) -> float:
    """Of the requests, those that were refused; all, where nobody counts them."""
    number = _num_refused(evidence)
    return 1.0 if not number else min(1.0, number / max(1.0, evidence.requests))


def _refused(evidence: Evidence) -> str:
    number = _num_refused(evidence)
    if not number:
        return "the queue is full"
    when = "since the server started" if evidence.is_since_start else f"in {evidence.seconds:.0f} s"
    return f"{number:.0f} of {max(number, evidence.requests):.0f} requests {when} found the queue full"
