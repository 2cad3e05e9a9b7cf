"""Threads that decode the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from smartbatch_worker.flow.rows import Row


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
