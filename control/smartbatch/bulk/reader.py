"""Rows are read by a thread, some ahead of the requests: a slow disk or pipe keeps nobody waiting who has work.

The event loop is woken only where a task waits for a row, since that costs as much as reading a small file.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smartbatch.bulk.rows import Failure, Row, UnreadableRowError

_BYTES_AHEAD = 64 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row with its body; or with why there is none."""

    row: Row
    body: bytes
    content_type: str
    failure: Failure | None = None


class Reader:
    """Rows that are not done yet, with their bodies; for the tasks of one event loop."""

    def __init__(self, rows: Iterator[Row], is_done: Callable[[Row], bool], ahead: int) -> None:
        """Begin to read.

        Args:
            rows: all of them.
            is_done: whether one of them is to be passed over; called by the thread.
            ahead: how many are read before they are wanted, of at most 64 MiB.
        """
        self._rows = rows
        self._is_done = is_done
        self._ahead = ahead
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Loaded] = deque()
        self._bytes_read = self._bytes_taken = 0  # each is written by one thread only
        self._woken = asyncio.Event()
        self._is_wanted = False
        self._has_room = threading.Event()
        self._is_stopped = self._is_over = False
        self._error: Exception | None = None
        self.num_seen = 0
        """Rows of the source so far, those that are done included."""
        # A daemon: one that waits for a pipe must not keep the process from ending.
        self.thread = threading.Thread(target=self._read, name="smartbatch-reader", daemon=True)
        self.thread.start()

    async def next(self) -> Loaded | None:
        """One that nobody else gets; None after the last one.

        Raises:
            SmartBatchError: the source is another one than it was.
            OSError: it cannot be read.
        """
        while not self._is_stopped:
            if self._ready:
                loaded = self._ready.popleft()
                self._bytes_taken += len(loaded.body)
                if 2 * len(self._ready) <= self._ahead:
                    self._has_room.set()
                return loaded
            if self._is_over:
                if self._error is not None:
                    raise self._error
                return None
            self._woken.clear()
            self._is_wanted = True
            if not self._ready and not self._is_over:  # the thread may have been between the two looks
                await self._woken.wait()
        return None

    def stop(self) -> None:
        """Give nothing more."""
        self._is_stopped = True
        self._woken.set()
        self._has_room.set()

    def _read(self) -> None:
        """In the thread."""
        try:
            for row in self._rows:
                self.num_seen += 1
                if self._is_done(row):
                    continue
                loaded = load(row)
                self._wait_for_room()
                if self._is_stopped:
                    return
                self._bytes_read += len(loaded.body)
                self._ready.append(loaded)
                self._wake()
        except Exception as e:  # it is raised where the rows are waited for
            self._error = e
        self._is_over = True
        self._wake()

    def _wait_for_room(self) -> None:
        while self._is_full() and not self._is_stopped:
            self._has_room.clear()
            if self._is_full() and not self._is_stopped:
                self._has_room.wait()

    def _is_full(self) -> bool:
        is_heavy = self._bytes_read - self._bytes_taken >= _BYTES_AHEAD
        return len(self._ready) >= self._ahead or (is_heavy and bool(self._ready))

    def _wake(self) -> None:
        if self._is_wanted:
            self._is_wanted = False
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._woken.set)


def load(row: Row) -> Loaded:
    """Read a row's body; if it has none, that is its failure."""
    try:
        body, content_type = row.load()
    except UnreadableRowError as e:
        return Loaded(row, b"", "", Failure("unreadable", str(e)))
    return Loaded(row, body, content_type)
