"""Waiting for company: too long, for nobody, or not at all."""

from __future__ import annotations

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis
from smartbatch.doctor.illnesses.change import retuned

LONE = 1.15
"""Batches of no more requests than this on average: nobody came."""
LEAST_SHARE = 0.25
"""Of a request's time; what costs less is no illness."""
LEAST_MS = 2.0


def zero(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """A delay of 0, which caps batches at two."""
    status = evidence.status
    if status.max_batch_delay_ms > 0 or status.batch_size <= 2:
        return None
    gain = retuned(prognosis, max_batch_delay_ms=1)
    no_more_come = prognosis is not None and gain is None
    return Finding(
        illness="delay-zero",
        model=evidence.model,
        severity=Severity.SLOW,
        share=0.5,
        evidence=(
            f"registered with a delay of {max(0, status.max_batch_delay_ms)} ms and batches of {status.batch_size}"
        ),
        consequence=(
            "TorchServe ends a batch at its second request when the delay is 0, however many wait"
            f"{'; this load would not fill larger ones' if no_more_come else ''}"
        ),
        # What waits by now is taken at once, whatever the delay; of those to come the least delay gathers enough.
        cure=f"smartbatch retune {evidence.model} --max-delay-ms 1",
        gain=gain,
    )


def for_nobody(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """A delay that requests pay and that brings them no company."""
    status, view = evidence.status, evidence.view
    delay_ms = status.max_batch_delay_ms
    if view.avg_batch_size is None or view.p50_s is None or status.batch_size < 2:
        return None
    share = (delay_ms - 1) / (1000 * view.p50_s)
    if view.avg_batch_size > LONE or delay_ms - 1 < LEAST_MS or share < LEAST_SHARE:
        return None
    return Finding(
        illness="delay-for-nobody",
        model=evidence.model,
        severity=Severity.SLOW,
        share=min(1.0, share),
        evidence=(
            f"batches hold {view.avg_batch_size:.2f} requests on average, and each waits {delay_ms} ms for more; "
            f"p50 is {1000 * view.p50_s:.0f} ms"
        ),
        consequence=f"{delay_ms - 1} ms of {1000 * view.p50_s:.0f} are waiting for requests that do not come",
        cure=f"smartbatch retune {evidence.model} --max-delay-ms 1",
        gain=retuned(prognosis, max_batch_delay_ms=1),
    )


def never_filled(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """All clients are in the batch already, and the rest of the delay is waited for nobody."""
    status, view = evidence.status, evidence.view
    delay_ms = status.max_batch_delay_ms
    if prognosis is None or view.avg_batch_size is None or view.p50_s is None:
        return None
    is_partly_filled = LONE < view.avg_batch_size < 0.75 * status.batch_size
    share = (delay_ms - 1) / (1000 * view.p50_s)
    if not is_partly_filled or delay_ms - 1 < LEAST_MS or share < LEAST_SHARE:
        return None
    if prognosis.observed.in_flight > 1.5 * view.avg_batch_size * len(status.workers):
        return None  # others come while a batch is computed: the delay gathers them
    return Finding(
        illness="batch-never-filled",
        model=evidence.model,
        severity=Severity.SLOW,
        share=min(1.0, share),
        evidence=(
            f"{prognosis.observed.in_flight:.1f} requests are in the server at a time, batches hold "
            f"{view.avg_batch_size:.1f} of {status.batch_size}, and wait {delay_ms} ms for the rest"
        ),
        consequence=f"up to {delay_ms - 1} of {1000 * view.p50_s:.0f} ms are waited for a batch that cannot fill up",
        cure=f"smartbatch retune {evidence.model} --max-delay-ms 2",
        gain=retuned(prognosis, max_batch_delay_ms=2),
    )
