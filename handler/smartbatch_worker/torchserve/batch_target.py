"""`target_p95_ms`: what a worker learns of its batches, to metrics, log and frontend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from smartbatch_worker.contract import headers
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.flow.batch_bound import BatchBound, Timings
from smartbatch_worker.flow.rows import Row
from smartbatch_worker.torchserve.telemetry import StageTimer, Telemetry

logger = logging.getLogger(__name__)


class BatchTarget:
    """One worker's; nothing happens where no target is set.

    Args:
        target_ms: `target_p95_ms` of the configuration.
        batch_size: as registered.
        timings: of the forward, as BatchBound takes them.
        telemetry: of the worker.
    """

    def __init__(self, target_ms: float | None, batch_size: int, timings: Timings, telemetry: Telemetry) -> None:
        self._bound = None if target_ms is None else BatchBound(target_ms / 1000, batch_size, timings)
        self._telemetry, self._target_ms = telemetry, target_ms
        self._tell_metric()

    @property
    def limit(self) -> int | None:
        """Requests wanted in a batch at most; None without a target."""
        return None if self._bound is None else self._bound.limit

    def took(self, rows: Sequence[Row], timer: StageTimer, context: Any, *, has_loaded: bool) -> None:
        """A batch is answered: learn from it, and have the frontend hand over no more than is wanted.

        Args:
            rows: of the batch.
            timer: since its start.
            context: takes the header that says so.
            has_loaded: weights were loaded meanwhile, which is no batch's time.
        """
        bound = self._bound
        if bound is None:
            return
        if not has_loaded:
            before, could = bound.limit, bound.cannot is None
            if bound.took(len(rows), sum(len(row.items) for row in rows), timer.since_start()):
                self._telemetry.count(names.LATE_BATCHES)
            if bound.limit != before:
                self._tell_metric()
            if could and (alone_s := bound.cannot) is not None:
                logger.warning(
                    "target_p95_ms=%g cannot be met: a request alone takes %.0f ms", self._target_ms, 1000 * alone_s
                )
        for index in range(len(rows)):
            context.set_response_header(index, headers.BATCH_LIMIT, str(bound.limit))

    def _tell_metric(self) -> None:
        if self._bound is not None:
            self._telemetry.gauge(names.BATCH_LIMIT, self._bound.limit, per_worker=True)
