"""Batches that are none: one request, one item a forward, or nothing to gain from them."""

from __future__ import annotations

import dataclasses

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis
from smartbatch.doctor.illnesses.change import retuned, waits

STANDARD_SIZE = 32
WORTH = 1.05
"""A gain below this is none."""
FLAT = 1.1
"""Per item, one at a time costs no more than this times the best batch: batching cannot help."""
ALONE = 1.2
"""Forwards of no more items than this, on average."""


def of_one(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Registered with batches of one, while several requests wait at a time."""
    status = evidence.status
    if status.batch_size > 1 or not waits(evidence):
        return None
    is_known = len(_ms_per_item(evidence)) >= 3  # what more items cost; else nothing is promised, and nothing denied
    if prognosis is not None and is_known:
        best = dataclasses.replace(prognosis.observed.setting, batch_size=STANDARD_SIZE, max_batch_delay_ms=10)
        if prognosis.improvement(best) < WORTH:
            return None  # `cannot_help` says why
    return Finding(
        illness="batch-of-one",
        model=evidence.model,
        severity=Severity.SLOW,
        share=0.8,
        evidence=f"registered with a batch size of 1; a request waits {_ms(evidence.queue_s)} for a worker on average",
        consequence="every request has a forward of its own, and those that wait could have shared it",
        cure=f"smartbatch retune {evidence.model} --batch-size {STANDARD_SIZE} --max-delay-ms 10",
        gain=retuned(prognosis, batch_size=STANDARD_SIZE, max_batch_delay_ms=10) if is_known else None,
    )


def forwards_of_one(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Batches come in, and each item is computed by itself."""
    view = evidence.view
    if view.avg_batch_size is None or view.avg_forward_size is None or view.avg_batch_size < 2:
        return None
    if view.avg_forward_size > ALONE or can_only_be_flat(evidence):
        return None
    configured = evidence.config("micro_batch")
    if configured == 1:
        why = "the archive says `micro_batch: 1`"
        cure = f"smartbatch retune {evidence.model} --set micro_batch=auto"
    else:
        why = "items of different shapes cannot share one"
        cure = (
            "send items of equal shape, or name the sizes that they may be padded to: `inputs` and `lengths` in "
            "docs/configuration.md"
        )
    return Finding(
        illness="forwards-of-one",
        model=evidence.model,
        severity=Severity.SLOW,
        share=0.7,
        evidence=f"batches of {view.avg_batch_size:.1f} requests, forwards of {view.avg_forward_size:.1f} items: {why}",
        consequence="a batch costs as much as its requests would one after the other",
        cure=cure,
    )


def cannot_help(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """A forward whose time grows with its items, from one on."""
    if not can_only_be_flat(evidence) or not (waits(evidence) or (evidence.view.avg_batch_size or 0) >= 2):
        return None
    times = _ms_per_item(evidence)
    best = min(times, key=times.__getitem__)
    return Finding(
        illness="batching-cannot-help",
        model=evidence.model,
        severity=Severity.NOTE,
        share=0.0,
        evidence=(
            f"measured when it was loaded: {times[1]:.3g} ms an item alone, {times[best]:.3g} ms an item of {best}"
        ),
        consequence=(
            f"a forward's time is that of its items: no batch can be more than {times[1] / times[best]:.2f} x faster"
        ),
        cure=(
            "faster forwards: `precision: bf16` where the CPU computes in it, `compile: openvino`, a GPU "
            "(docs/performance.md)"
        ),
    )


def can_only_be_flat(evidence: Evidence) -> bool:
    """What was measured says that items cost the same however many share a forward."""
    times = _ms_per_item(evidence)
    return len(times) >= 3 and 1 in times and times[1] <= FLAT * min(times.values())


def _ms_per_item(evidence: Evidence) -> dict[int, float]:
    worker = evidence.worker
    shapes = worker["micro_batch_ms_per_item"] if worker is not None else {}
    longest = max(shapes.values(), key=len, default={})
    return {int(size): ms for size, ms in longest.items()}


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"
