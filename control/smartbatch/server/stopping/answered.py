"""Whether every request that the frontend accepted has been answered by a handler, by its counters."""

from __future__ import annotations

from smartbatch_worker.contract import metrics as names

from smartbatch.errors import NotRunningError
from smartbatch.remote.scrape import scrape
from smartbatch.remote.state import ServerState

_ACCEPTED = "ts_inference_requests_total"
"""Counted by the frontend once a request is there in full, whatever becomes of it."""


def all_were_answered(state: ServerState) -> bool:
    """Whether all were for certain; False where the frontend has answered some itself, as when a queue was full.

    Counters reach the metrics port some tenths of a second after the answers.
    """
    try:
        samples = scrape(state.metrics_url, verify=state.tls_cert or True)
    except NotRunningError:
        return False
    return samples.total(_ACCEPTED) <= samples.total(names.REQUESTS)
