"""Threads for decoding and inside operators: the cores shared among this server's workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from smartbatch_worker.contract.machine import num_cores
from smartbatch_worker.flow.rows import Row
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


class DecoderPool:
    """Decodes a batch's rows in as many threads as the forward may use: image decoders release the GIL."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def run(self, decode: Callable[[Row], None], rows: Sequence[Row]) -> None:
        """Attempt `decode` on every row; a failure stays in its row."""
        size = min(torch.get_num_threads(), len(rows))
        if size <= 1:
            for row in rows:
                row.attempt(decode, row)
            return
        if self._executor is None or self._size < size:
            self._executor, self._size = _decoders(size), size

        def decode_some(start: int) -> None:
            for row in rows[start::size]:
                row.attempt(decode, row)

        list(self._executor.map(decode_some, range(size)))


def _decoders(size: int) -> ThreadPoolExecutor:
    # One thread an operator in here: the rows are already spread over the cores.
    return ThreadPoolExecutor(size, "smartbatch-decode", initializer=lambda: torch.set_num_threads(1))
