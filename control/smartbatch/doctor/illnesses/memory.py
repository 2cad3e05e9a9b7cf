"""What workers have in memory each, and could have once."""

from __future__ import annotations

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis

LARGE = 200_000_000
"""Bytes that a worker has for itself; with less there is little to share."""


def copies(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Each worker has PyTorch, or the weights, for itself."""
    memory, described = evidence.memory, evidence.worker
    if memory is None or described is None or len(memory.own_bytes) < 2 or min(memory.own_bytes) < LARGE:
        return None
    if described["device"] != "cpu" or any(worker["measuring"] for worker in evidence.workers):
        return None
    count = len(memory.own_bytes)
    is_loaded = all(worker["loaded"] for worker in evidence.workers)
    if memory.num_forked < count:
        why = f"{count - memory.num_forked} of {count} were started anew instead of being forked"
        cure = "`smartbatch serve` without SMARTBATCH_FORK_SERVER=off starts a server that forks them"
    elif is_loaded and memory.num_sharing < count:
        why = f"{count - memory.num_sharing} of {count} do not map the weights from the file that all may share"
        cure = f'see model_log.log for `{evidence.model}`: "weights are not shared" says why (docs/configuration.md)'
    else:
        return None
    own = ", ".join(f"{size / 1e6:.0f}" for size in memory.own_bytes)
    return Finding(
        illness="memory-copies",
        model=evidence.model,
        severity=Severity.NOTE,
        share=0.0,
        evidence=f"workers take {memory.pss_bytes / 1e6:.0f} MB together (PSS), {own} MB of it each for itself: {why}",
        consequence="what they could have in memory once, each has again; one more worker takes as much",
        cure=cure,
    )
