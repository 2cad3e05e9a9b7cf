"""Workers: none, dying, too many, waiting, or about to be killed."""

from __future__ import annotations

import math

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import IDLE_CPU, Prognosis
from smartbatch.doctor.illnesses.change import retuned, waits

NEAR = 0.5
"""Of the response timeout, for a batch on average."""
WORKING = 0.3
"""Of the time; below, there is too little to tell from."""
COMPUTING = 0.5
"""Of all cores."""


def none(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """No worker is meant to run."""
    status = evidence.status
    if status.workers or status.min_workers:
        return None
    return Finding(
        illness="no-worker",
        model=evidence.model,
        severity=Severity.FAILING,
        share=1.0,
        evidence="the model is registered with 0 workers",
        consequence="every request is answered 503",
        cure=f"smartbatch scale {evidence.model} --workers 1",
    )


def crash_loop(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Workers die, and are started again."""
    status = evidence.status
    ready = sum(worker.status == "READY" for worker in status.workers)
    is_short = bool(status.workers) and ready < max(1, status.min_workers)
    if not evidence.restarts and not is_short:
        return None
    if evidence.is_since_start and not is_short:
        return None  # however long ago: what came of it is over
    error = f"; the last error: {evidence.last_error}" if evidence.last_error else ""
    return Finding(
        illness="crash-loop",
        model=evidence.model,
        severity=Severity.FAILING,
        share=1.0,  # whatever else fails, fails of this
        evidence=(
            f"{ready} of {max(1, status.min_workers)} workers are READY, {evidence.restarts:.0f} were started again in "
            f"{evidence.seconds:.0f} s{error}"
        ),
        consequence="a dying worker's batch is answered 500; while none is READY requests wait, and /ping says Healthy",
        cure=(
            f"see model_log.log for `{evidence.model}`, mend the archive, then `smartbatch register` it as another "
            "version"
        ),
    )


def threads_over_cores(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """A fixed number of threads a worker, and together more than there are cores."""
    cores, threads = _cpu_cores(evidence), evidence.config("threads")
    count = len(evidence.status.workers)
    if cores is None or threads in (None, "auto") or int(threads) < 2 or int(threads) * count <= cores:
        return None
    return Finding(
        illness="threads-over-cores",
        model=evidence.model,
        severity=Severity.SLOW,
        share=0.6,
        evidence=(
            f"{count} worker(s) of {threads} threads each on {cores} core(s): the archive says `threads: {threads}`"
        ),
        consequence="threads wait for each other's turn on a core: two workers of two on two cores ran at a third",
        cure=f"smartbatch retune {evidence.model} --set threads=auto",
    )


def workers_over_cores(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """More processes compute than there are cores."""
    cores, count, cpu = _cpu_cores(evidence), len(evidence.status.workers), evidence.cpu
    if cores is None or count <= cores or cpu is None or cpu.workers < COMPUTING * cores * evidence.seconds:
        return None  # those that rest, or wait for something else, are in nobody's way
    return Finding(
        illness="workers-over-cores",
        model=evidence.model,
        severity=Severity.SLOW,
        share=0.3,
        evidence=f"{count} workers on {cores} core(s)",
        consequence="they take turns on the cores: no more is answered, batches are smaller, and each takes memory",
        cure=f"smartbatch scale {evidence.model} --workers {cores}",
        gain=retuned(prognosis, workers=cores),
    )


def _cpu_cores(evidence: Evidence) -> int | None:
    """Of a model that computes on this machine's; None for any other."""
    worker = evidence.worker
    return evidence.server.cores if worker is not None and worker["device"] == "cpu" else None


def waiting(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Workers that spend their batches waiting for something else than a core."""
    cpu, view = evidence.cpu, evidence.view
    if cpu is None or not view.stage_s or evidence.busy < WORKING:
        return None
    busy_s = view.batches_per_s * evidence.batch_s * evidence.seconds
    used = cpu.workers / busy_s
    worker = evidence.worker
    if used >= IDLE_CPU or (worker is not None and worker["device"] != "cpu") or not waits(evidence):
        return None
    in_flight = evidence.view.rps * (evidence.mean_s or 0.0)
    now = max(1, len(evidence.status.workers))
    workers = max(now + 1, min(4 * now, math.ceil(in_flight / max(1, evidence.status.batch_size))))
    return Finding(
        illness="handler-waits",
        model=evidence.model,
        severity=Severity.SLOW,
        share=1.0 - used,
        evidence=(
            f"workers are at a batch for {evidence.busy:.0%} of the time, and use {used:.0%} of a core in it: "
            "the handler or the model waits (a file, a network, a sleep, a lock)"
        ),
        consequence="while one batch waits, its worker takes no other",
        cure=f"smartbatch scale {evidence.model} --workers {workers}",
        gain=retuned(prognosis, workers=workers),
    )


def near_timeout(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Batches that nearly take what a worker may take before it is killed."""
    limit_s = evidence.status.response_timeout_s
    if not limit_s or evidence.batch_s < NEAR * limit_s:
        return None
    return Finding(
        illness="near-timeout",
        model=evidence.model,
        severity=Severity.FAILING,
        share=min(1.0, evidence.batch_s / limit_s),
        evidence=f"a batch takes {evidence.batch_s:.1f} s on average, and its worker is killed after {limit_s} s",
        consequence="a slower batch than most is answered 500, all of it, and the worker starts anew",
        cure=f"smartbatch retune {evidence.model} --set responseTimeout={max(60, round(10 * evidence.batch_s))}",
    )
