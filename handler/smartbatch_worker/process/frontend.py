"""Which process TorchServe's frontend is: the parent of a worker, but for one that was forked by another process."""

from __future__ import annotations

import os

from smartbatch_worker.contract.environment import FRONTEND_PID


def frontend_pid() -> int:
    """The process that started this worker, or what stands in for it."""
    return int(os.environ.get(FRONTEND_PID) or os.getppid())
