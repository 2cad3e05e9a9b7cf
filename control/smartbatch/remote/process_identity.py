"""Which process is meant, whatever happened to the clock and to its number since.

A pid alone may belong to a later process, and a start time read off the wall clock moves when that clock is set: a
server was once taken for gone after a step of two seconds, and its files removed under it. So a process is named by
its pid and its birth: the boot and the tick it started at, which nothing changes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import psutil

_POLL_S = 0.05
# Fields of /proc/<pid>/stat behind the command's name, which may hold anything, spaces and brackets too.
_STATE, _NUM_THREADS, _START_TICKS = 0, 17, 19


def birth(pid: int) -> str | None:
    """When process `pid` started, as text that equals no other process's of that number; None when it is gone.

    Linux: the boot's id and clock ticks since that boot. Elsewhere: the start time that the kernel keeps.
    """
    if sys.platform == "linux":
        fields = _stat(pid)
        return None if fields is None else f"{_boot_id()} {fields[_START_TICKS]}"
    with contextlib.suppress(psutil.Error):
        return repr(psutil.Process(pid).create_time())
    return None


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
        fields = _stat(pid)
        if fields is None:
            return None
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")
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
        fields = _stat(process.pid)
        return fields is not None and (fields[_STATE] != "Z" or int(fields[_NUM_THREADS]) > 1)
    return False


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such process, or it ended while being read
        return None
    return text.rpartition(")")[2].split()


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
