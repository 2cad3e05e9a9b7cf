"""Processes by what they are, not by their number alone: whether they live, how old they are, that they are gone."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable

import psutil
from smartbatch_worker.contract.process_identity import birth, stat

__all__ = ["age_s", "birth", "live_process", "own_birth", "wait_gone"]

_POLL_S = 0.05


def own_birth() -> str:
    """This process's."""
    mine = birth(os.getpid())
    assert mine is not None, "this process runs"
    return mine


def live_process(pid: int, born: str) -> psutil.Process | None:
    """The process with `pid` born at `born`, unless it is gone, a zombie, or a later one that got the same number."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if birth(pid) == born and _runs(process):
            return process
    return None


def age_s(pid: int) -> float | None:
    """Seconds since process `pid` started, by a clock that nobody sets; None when it is gone."""
    if sys.platform == "linux":
        found = stat(pid)
        if found is None:
            return None
        return time.clock_gettime(time.CLOCK_BOOTTIME) - found.start_ticks / os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(psutil.Error):
        return time.time() - float(psutil.Process(pid).create_time())
    return None


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until `processes` have ended; those that still run after `timeout_s`.

    A zombie has ended: whoever started it may never ask how.
    """
    deadline = time.monotonic() + timeout_s
    alive = [process for process in processes if _runs(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        alive = [process for process in alive if _runs(process)]
    return alive


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        if not process.is_running():
            return False
        if sys.platform != "linux":
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        # Java's first thread may be a zombie while others still hold its ports.
        found = stat(process.pid)
        return found is not None and (found.state != "Z" or found.num_threads > 1)
    return False
