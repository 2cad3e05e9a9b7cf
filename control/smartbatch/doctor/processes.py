"""The CPU that a server on this machine takes: its workers', and its frontend's with that of a probe's clients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
from smartbatch_worker.contract.environment import WEIGHTS_PREFIX
from smartbatch_worker.contract.machine import num_cores

FORK_SERVER_SCRIPT = "fork_server.py"
WORKER_SCRIPTS = ("model_service_worker.py", FORK_SERVER_SCRIPT)
"""In the command line of every worker: TorchServe's own script, or of one that was forked that of what forked it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuSeconds:
    """User and system time."""

    workers: float
    """Summed over them."""
    frontend: float | None
    """None: its process is not known."""
    own: float
    """Of this process, which is the clients' where it probes."""

    @property
    def total(self) -> float:
        """Of all whose processes are known."""
        return self.workers + (self.frontend or 0.0) + self.own

    def minus(self, earlier: CpuSeconds) -> CpuSeconds:
        """Spent since then; of workers that have been restarted meanwhile, no less than nothing."""
        known = self.frontend is not None and earlier.frontend is not None
        return CpuSeconds(
            workers=max(0.0, self.workers - earlier.workers),
            frontend=(self.frontend or 0.0) - (earlier.frontend or 0.0) if known else None,
            own=self.own - earlier.own,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Of one model's workers."""

    pss_bytes: int
    """Summed: what several share is counted once."""
    own_bytes: tuple[int, ...]
    """Of each, what no other process has."""
    num_forked: int
    """That had PyTorch loaded when they began."""
    num_sharing: int
    """That have a model's weights from the file that all workers of it share."""


@dataclass(frozen=True, slots=True)
class Processes:
    """A server's workers, and its frontend where that is known."""

    workers: tuple[psutil.Process, ...]
    frontend: psutil.Process | None

    @classmethod
    def of_server(cls, worker_pids: Iterable[int], frontend: psutil.Process | None) -> Processes | None:
        """None where no such worker is to be seen: the address may be another machine's, forwarded to here."""
        found = []
        for pid in worker_pids:
            try:
                process = psutil.Process(pid)
                if any(word.endswith(WORKER_SCRIPTS) for word in process.cmdline()):
                    found.append(process)
            except (psutil.Error, ValueError):  # 0 while it starts
                continue
        return cls(tuple(found), frontend) if found else None

    @property
    def cores(self) -> int:
        """That this machine has for it."""
        return num_cores()

    def memory(self, pids: Iterable[int]) -> Memory | None:
        """Of those of the workers; None where the kernel does not tell it, or one has ended."""
        pids = set(pids)
        pss, num_forked, num_sharing = 0, 0, 0
        own: list[int] = []
        for process in self.workers:
            if process.pid not in pids:
                continue
            try:
                full = process.memory_full_info()
                maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
                num_forked += any(word.endswith(FORK_SERVER_SCRIPT) for word in process.cmdline())
            except (psutil.Error, OSError):
                return None
            if not hasattr(full, "pss"):
                return None
            pss, own, num_sharing = pss + full.pss, [*own, full.uss], num_sharing + (WEIGHTS_PREFIX in maps)
        memory = Memory(pss_bytes=pss, own_bytes=tuple(own), num_forked=num_forked, num_sharing=num_sharing)
        return memory if own else None

    def cpu_seconds(self) -> CpuSeconds:
        """So far; a worker that has ended no longer counts."""
        workers = [_seconds(process) for process in self.workers]
        return CpuSeconds(
            workers=sum(seconds for seconds in workers if seconds is not None),
            frontend=None if self.frontend is None else _seconds(self.frontend),
            own=_seconds(psutil.Process()) or 0.0,
        )


def _seconds(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)
