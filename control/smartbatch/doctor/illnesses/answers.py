"""Answers that are worth nothing, or are none."""

from __future__ import annotations

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis

FAILING = 0.01
"""Of the requests."""
REFUSALS = ("overloaded", "no_worker", "draining")
"""What the frontend answers 503 for by itself; other illnesses tell of it."""


def random_weights(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """A model that has learned nothing."""
    if not evidence.weights_random:
        return None
    return Finding(
        illness="random-weights",
        model=evidence.model,
        severity=Severity.FAILING,
        share=1.0,
        evidence="the archive was built with random weights, because it was asked to or none could be fetched",
        consequence="every answer is well-formed and means nothing",
        cure=f"smartbatch archive --model-path WEIGHTS --name {evidence.model} --version 2.0 --force, then register it",
    )


def failing(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """The server's own failures: not what clients did wrong, nor what found the queue full."""
    failures = {status: n for status, n in evidence.statuses.items() if status[0] == "5" and status != "504"}
    refused = sum(evidence.rejected.get(reason, 0.0) for reason in REFUSALS)
    failures["503"] = max(0.0, failures.get("503", 0.0) - refused)
    share = sum(failures.values()) / max(1.0, evidence.requests)
    if share < FAILING:
        return None
    most = max(failures, key=failures.__getitem__)
    # A handler that answers another number of rows fails its whole batch.
    foreign = "" if evidence.workers else ", by a handler that is not SmartBatch's"
    why = f"; the last error: {evidence.last_error}" if evidence.last_error else ""
    return Finding(
        illness="answers-fail",
        model=evidence.model,
        severity=Severity.FAILING,
        share=min(1.0, share),
        evidence=f"{share:.0%} of {evidence.requests:.0f} requests failed, mostly with {most}{foreign}{why}",
        consequence="clients get errors for requests that may be right",
        cure=(
            f"see model_log.log for `{evidence.model}`; with SmartBatch's handler one bad row fails alone: "
            "`smartbatch migrate`"
        ),
    )
