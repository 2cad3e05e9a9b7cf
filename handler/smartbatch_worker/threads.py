"""Threads for decoding and inside operators: the cores shared among this server's workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch

from smartbatch_worker.processor import num_cores
from smartbatch_worker.rows import Row

RECOUNT_INTERVAL_S = 10.0


class ThreadShare:
    """Keeps torch's thread count at cores ÷ workers while workers come and go.

    Two workers of two threads each on two cores run at a third of the speed of two with one: the threads spin
    against each other. TorchServe tells a worker nothing of its siblings, so they are counted as processes.
    """

    def __init__(self, threads: int | str) -> None:
        self._fixed = None if threads == "auto" else int(threads)
        self._next_count = 0.0

    def apply(self) -> None:
        """Set torch's thread count, from the thread that runs the forward (the setting is per thread)."""
        now = time.monotonic()
        if now < self._next_count:
            return
        self._next_count = now + RECOUNT_INTERVAL_S
        threads = self._fixed or max(1, num_cores() // num_workers())
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
        list(self._executor.map(lambda row: row.attempt(decode, row), rows))


def _decoders(size: int) -> ThreadPoolExecutor:
    # One thread an operator in here: the rows are already spread over the cores.
    return ThreadPoolExecutor(size, "smartbatch-decode", initializer=lambda: torch.set_num_threads(1))


def num_workers() -> int:
    """Python workers of this worker's frontend, itself included."""
    try:
        siblings = psutil.Process(os.getppid()).children()
        return max(1, sum("model_service_worker" in " ".join(process.cmdline()) for process in siblings))
    except psutil.Error:
        return 1
