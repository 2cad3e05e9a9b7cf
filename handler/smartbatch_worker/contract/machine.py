"""What processor this is and how much of it we may use; asked by workers, control plane, load tests and bench alike.

Without torch, so that the command line may ask too.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def num_cores() -> int:
    """Cores this process may use: its affinity mask, and a container's CPU quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with Path("/sys/fs/cgroup/cpu.max").open(encoding="ascii") as file:
            quota, period = file.read().split()
            return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def cpu_name() -> str:
    """The processor's name, "" where nobody says."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets, as Linux names them on x86 ("flags") or Arm ("Features"); empty elsewhere."""
    return frozenset(cpuinfo("flags").split()) | frozenset(cpuinfo("Features").split())


def cpuinfo(key: str) -> str:
    """One field of /proc/cpuinfo, of the first core; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""  # not Linux
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
