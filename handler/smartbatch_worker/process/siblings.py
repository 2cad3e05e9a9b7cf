"""The other workers of this worker's frontend: how many there are, and how many are computing right now.

TorchServe tells a worker nothing of its siblings. They are counted as processes, and each notes in a small file that
all of them map into memory whether it has a batch: reading it costs a microsecond.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import psutil

from smartbatch_worker.process.frontend import frontend_pid

_NUM_SLOTS = 512


def num_workers() -> int:
    """Python workers of this worker's frontend, itself included."""
    try:
        return max(1, len(_workers()))
    except psutil.Error:
        return 1


def _workers() -> list[psutil.Process]:
    """Or what stands in for them: whoever forks workers, TorchServe's name for the script is among its arguments."""
    siblings = psutil.Process(frontend_pid()).children()
    return [process for process in siblings if "model_service_worker" in _command(process)]


def _command(process: psutil.Process) -> str:
    """Empty for one that has ended meanwhile: the others count all the same."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def board_path() -> Path:
    """The file that the workers of one frontend share."""
    return Path(tempfile.gettempdir()) / f"smartbatch-{frontend_pid()}-busy"


class BusyBoard:
    """Who has a batch. A slot holds its worker's process id while it computes, minus that while it waits, 0 if free.

    Args:
        path: the file, made if need be.
        pid: whose slot this is; a dead worker's slot counts until `forget_the_dead`.

    Raises:
        OSError: the file cannot be made, or is another user's.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self._pid = pid
        # The folder may be open to all, the name can be guessed: follow no link, share with nobody.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_uid != os.getuid():
                raise PermissionError(f"{path} belongs to another user")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.ftruncate(descriptor, 8 * _NUM_SLOTS)
            self._slots = np.frombuffer(mmap.mmap(descriptor, 8 * _NUM_SLOTS), dtype=np.int64)
            self.forget_the_dead()
            free = np.flatnonzero(self._slots == 0)
            if not len(free):
                raise OSError(f"{path} has no slot left: {_NUM_SLOTS} workers use it")
            self._own = int(free[0])
            self._slots[self._own] = -pid
        finally:
            # Unlocked by name: the mapping keeps a descriptor of its own, and with it the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def start(self) -> None:
        """This worker computes from now on."""
        self._slots[self._own] = self._pid

    def finish(self) -> None:
        """It waits for its next batch."""
        self._slots[self._own] = -self._pid

    def num_busy(self) -> int:
        """Workers that compute, this one included if it does."""
        return int((self._slots > 0).sum())

    def forget_the_dead(self) -> None:
        """Free the slots of workers that were killed."""
        for slot in np.flatnonzero(self._slots):
            if not psutil.pid_exists(abs(int(self._slots[slot]))):
                self._slots[slot] = 0
