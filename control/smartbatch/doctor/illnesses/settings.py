"""Settings that the model of the server finds far better ones for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis
from smartbatch.simulation.costs import Setting
from smartbatch.simulation.fit import ERROR

SIZES = (1, 4, 8, 16, 32, 64)
DELAYS_MS = (1, 5, 10, 20)
WORTH = 1.0 + ERROR
"""A prediction may be off by that much: what is no better than this may be no better at all."""


def better(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Another batch size, delay or number of workers, by far."""
    if prognosis is None or evidence.config("micro_batch") not in ("auto", None):
        return None
    best = max(_others(evidence, prognosis.observed.setting), key=prognosis.improvement)
    factor = min(prognosis.improvement(best), prognosis.cautious.improvement(best))
    if factor < WORTH:
        return None
    now = prognosis.observed.setting
    return Finding(
        illness="settings",
        model=evidence.model,
        severity=Severity.SLOW,
        share=1.0 - 1.0 / factor,
        evidence=(
            f"batches of {now.batch_size} within {now.max_batch_delay_ms} ms on {now.workers} worker(s) give "
            f"{prognosis.observed.requests_per_s:.1f} requests/s at p50 {1000 * prognosis.observed.p50_s:.0f} ms"
        ),
        consequence="by the model of the server, fitted to these figures, other settings do far better",
        cure=(
            f"smartbatch retune {evidence.model} --batch-size {best.batch_size} "
            f"--max-delay-ms {best.max_batch_delay_ms} --workers {best.workers}"
        ),
        gain=prognosis.gain(best),
    )


def _others(evidence: Evidence, now: Setting) -> Iterator[Setting]:
    """Never more workers than cores; those that run stay where how many cores there are is not known."""
    cores = evidence.server.cores
    counts = {now.workers} if cores is None else {now.workers, *range(1, min(cores, 8) + 1)}
    for size in SIZES:
        for delay_ms in DELAYS_MS:
            for workers in sorted(counts):
                yield dataclasses.replace(now, batch_size=size, max_batch_delay_ms=delay_ms, workers=workers)
