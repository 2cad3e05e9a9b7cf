"""Which process is meant, whatever happened to the clock and to its number since.

A pid alone may belong to a later process, and a start time read off the wall clock moves when that clock is set: a
server was once taken for gone after a step of two seconds, and its files removed under it. So a process is named by
its pid and its birth: the boot and the tick it started at, which nothing changes.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Stat(NamedTuple):
    """What Linux says of a process in /proc/<pid>/stat."""

    state: str
    """One letter; Z is a zombie, or one whose first thread is."""
    num_threads: int
    start_ticks: int
    """Since boot, `os.sysconf("SC_CLK_TCK")` a second."""


def birth(pid: int) -> str | None:
    """When process `pid` started, as text that equals no other process's of that number; None when it is gone.

    Linux: the boot's id and clock ticks since that boot. Elsewhere: the start time that the kernel keeps.
    """
    if sys.platform != "linux":
        return birth_by_ps(pid)
    found = stat(pid)
    return None if found is None else f"{_boot_id()} {found.start_ticks}"


def birth_by_ps(pid: int) -> str | None:
    """The start time to the second, in the same words whatever the caller's locale and time zone."""
    told = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
        env={"LC_ALL": "C", "TZ": "UTC"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return told.stdout.strip() or None


def stat(pid: int) -> Stat | None:
    """Linux: what the kernel says of process `pid`; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such process, or it ended while being read
        return None
    # Behind the name, which may hold anything, spaces and brackets too: the third field and those after it.
    fields = text.rpartition(")")[2].split()
    return Stat(fields[0], int(fields[17]), int(fields[19]))


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
