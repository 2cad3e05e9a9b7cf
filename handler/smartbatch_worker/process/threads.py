"""Threads for decoding and inside operators: the cores shared among this server's workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from smartbatch_worker.contract.machine import num_cores
from smartbatch_worker.process.siblings import BusyBoard, board_path, num_workers

logger = logging.getLogger(__name__)

RECOUNT_INTERVAL_S = 10.0


class ThreadShare:
    """Keeps torch's thread count at cores ÷ workers that compute right now, while workers come, go and rest.

    Two workers of two threads each on two cores run at a third of the speed of two with one: the threads spin
    against each other. One worker with one thread, while the other waits, leaves a core idle.

    All of it is for the thread that runs the forward: torch's setting is per thread.
    """

    def __init__(self, threads: int | str) -> None:
        self._fixed = None if threads == "auto" else int(threads)
        self._next_count = 0.0
        self._num_cores = self._num_workers = 1
        self._board: BusyBoard | None = None
        if self._fixed is None:
            try:
                self._board = BusyBoard(board_path(), os.getpid())
            except OSError as error:
                logger.warning("threads are cores ÷ workers, however many of them are busy: %s", error)

    def share(self) -> None:
        """What every worker gets when all compute: for whatever is measured or built for later."""
        self._count()
        _set(self._fixed or max(1, self._num_cores // self._num_workers))

    def adapt(self) -> None:
        """What this worker gets now; call it before each piece of work."""
        if self._board is None:
            self.share()
            return
        self._count()
        _set(max(1, self._num_cores // max(1, self._board.num_busy())))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """For the length of the block this worker counts as one that computes."""
        if self._board is not None:
            self._board.start()
        try:
            self.adapt()
            yield
        finally:
            if self._board is not None:
                self._board.finish()

    def _count(self) -> None:
        now = time.monotonic()
        if now < self._next_count:
            return
        self._next_count = now + RECOUNT_INTERVAL_S
        self._num_cores, self._num_workers = num_cores(), num_workers()
        if self._board is not None:
            self._board.forget_the_dead()


def _set(threads: int) -> None:
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
