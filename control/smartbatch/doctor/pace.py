"""How fast this machine computes at the moment: its clock, and what shares its cores, change that within seconds."""

from __future__ import annotations

import statistics
import threading
import time
from types import TracebackType

import numpy as np

EVERY_S = 0.2
_NUM, _SIDE = 96, 64
"""Matrices, and their side: so small that BLAS multiplies each on one thread, and together more than a core's cache."""


class Pacer:
    """For the length of a block, a fixed piece of work at intervals: half a percent of a core."""

    def __init__(self) -> None:
        numbers = np.random.default_rng(0).random((_NUM + 1, _SIDE, _SIDE), dtype=np.float32)
        self._left, self._right = numbers[:_NUM], numbers[_NUM]
        self._out = np.empty_like(self._left)
        self._taken_s: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="smartbatch-pacer", daemon=True)

    def __enter__(self) -> Pacer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def pace_s(self) -> float:
        """CPU seconds of the work, on average: what waits for a core is not counted, what shares one is."""
        return statistics.mean(self._taken_s)

    def _work(self) -> None:
        np.matmul(self._left, self._right, out=self._out)  # the first takes many times as long
        while True:
            start_s = time.thread_time()
            np.matmul(self._left, self._right, out=self._out)
            self._taken_s.append(time.thread_time() - start_s)
            if self._ended.wait(EVERY_S):
                return
