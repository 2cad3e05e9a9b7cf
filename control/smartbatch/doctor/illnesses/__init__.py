"""All illnesses. One is a function that looks at the evidence and finds it, or does not; add a row here, a row in
docs/doctor.md, and a test that makes it on a real server."""

from __future__ import annotations

from collections.abc import Callable

from smartbatch.doctor.evidence import Evidence, ServerEvidence
from smartbatch.doctor.finding import Finding
from smartbatch.doctor.gain import Prognosis
from smartbatch.doctor.illnesses import (
    answers,
    batches,
    configured,
    delay,
    memory,
    queue,
    server,
    settings,
    stages,
    workers,
)

OF_MODELS: dict[str, Callable[[Evidence, Prognosis | None], Finding | None]] = {
    "no-worker": workers.none,
    "crash-loop": workers.crash_loop,
    "random-weights": answers.random_weights,
    "answers-fail": answers.failing,
    "queue-too-short": queue.too_short,
    "queue-over-heap": queue.over_heap,
    "overloaded": queue.overloaded,
    "near-timeout": workers.near_timeout,
    "batch-of-one": batches.of_one,
    "delay-zero": delay.zero,
    "delay-for-nobody": delay.for_nobody,
    "batch-never-filled": delay.never_filled,
    "forwards-of-one": batches.forwards_of_one,
    "handler-waits": workers.waiting,
    "threads-over-cores": workers.threads_over_cores,
    "workers-over-cores": workers.workers_over_cores,
    "decode-bound": stages.decode_bound,
    "response-bound": stages.response_bound,
    "batching-cannot-help": batches.cannot_help,
    "memory-copies": memory.copies,
    "config-beaten": configured.beaten,
}
"""Each of one model."""
OF_SETTINGS = settings.better
"""Asked only where none of those above has found what slows a model down: it knows that, and not why."""
OF_SERVERS: dict[str, Callable[[ServerEvidence], Finding | None]] = {
    "no-tokens": server.open_to_all,
    "stock-frontend": server.stock_frontend,
    "proxy-hop": server.behind_proxy,
}
