"""How much memory one process's decoding threads may hold together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ByteBudget:
    """Lets threads begin what is known to take memory, as long as all of it together stays within a limit."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_taken = 0

    @contextmanager
    def holding(self, num_bytes: int, limit: int) -> Iterator[None]:
        """Wait until `num_bytes` more fit within `limit`, and hold them for the length of the block.

        What alone is more than the limit runs alone: whoever calls has refused what is too large.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._num_taken == 0 or self._num_taken + num_bytes <= limit)
            self._num_taken += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._num_taken -= num_bytes
                self._changed.notify_all()
