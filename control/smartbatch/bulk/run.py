"""Rows to a server and answers into the journal, several at a time, until all are done or it makes no sense to go on.

What is about a row is written as that row's failure. What is about the server (gone, full for the whole deadline, the
model unknown, a token refused) ends the run: the rows it meets stay open, and the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from smartbatch.bulk.journal import Journal
from smartbatch.bulk.reader import Loaded, Reader
from smartbatch.bulk.rows import Failure
from smartbatch.client import AsyncClient
from smartbatch.client.authorization import is_refused
from smartbatch.client.progress import Meter
from smartbatch.errors import DeadlineError, InterruptedRunError, RequestRefusedError

_LAST_ANSWERS_S = 10.0
"""How long requests that are out may take once the user has pressed Ctrl-C; a second one ends them at once."""
_MANY_LATE = 4
"""With so many late rows and no answer in between it is the server, however few requests are out."""
_DIED = {"worker_died", "worker_out_of_memory"}
"""A worker's end fails the whole batch: each of its rows gets another chance."""


@dataclass(slots=True)
class BulkRun:
    """One run."""

    client: AsyncClient
    journal: Journal
    concurrency: int
    headers: Mapping[str, str]
    """Of each request, beating what its row says."""
    meter: Meter
    codes: Counter[str] = field(default_factory=Counter)
    """Failures of this run, by status and code."""
    num_answered: int = 0
    """Rows that this run got an answer for."""
    _error: Exception | None = None
    _held: list[tuple[Loaded, Failure]] = field(default_factory=list)
    """Rows that got no answer in time since the last answer: their own fault only if others are answered."""
    _late: DeadlineError | RequestRefusedError | None = None
    """Why the last of them has none."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _num_signals: int = 0

    async def run(self, reader: Reader) -> None:
        """Ask for every row that the reader gives.

        Raises:
            InterruptedRunError: SIGINT or SIGTERM came; what was out has been answered, or will be asked again.
            NotRunningError, ModelNotReadyError, DeadlineError, RequestRefusedError: the server is why.
            OSError: the journal cannot be written.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)
        workers = [asyncio.create_task(self._work(reader)) for _ in range(self.concurrency)]
        everything = asyncio.ensure_future(asyncio.wait(workers))
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait([everything, ended], return_when=asyncio.FIRST_COMPLETED)
            if self._error is None and self._num_signals:
                reader.stop()
                self._ended.clear()
                second = asyncio.create_task(self._ended.wait())
                await asyncio.wait([everything, second], timeout=_LAST_ANSWERS_S, return_when=asyncio.FIRST_COMPLETED)
                second.cancel()
        finally:
            reader.stop()
            for task in (*workers, ended):
                task.cancel()
            await asyncio.gather(*workers, everything, ended, return_exceptions=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        if self._error is not None:
            raise self._error
        if self._num_signals:
            raise InterruptedRunError("interrupted")
        if self._late is not None and not self.num_answered and not await self.client.is_ready():
            raise self._late
        self._write_held()

    def _interrupted(self) -> None:
        self._num_signals += 1
        self._ended.set()

    async def _work(self, reader: Reader) -> None:
        """One request at a time."""
        try:
            while not self._ended.is_set() and (loaded := await reader.next()) is not None:
                await self._ask(loaded)
        except Exception as e:  # whatever it is, the other tasks must not go on without this one
            self._error = self._error or e
            self._ended.set()

    async def _ask(self, loaded: Loaded, *, is_second: bool = False) -> None:
        if loaded.failure is not None:
            self._failed(loaded, loaded.failure)
            return
        try:
            answer = await self.client.predict(
                loaded.body, headers={"Content-Type": loaded.content_type, **self.headers}
            )
        except DeadlineError as e:
            self._hold(loaded, Failure("no_answer", str(e)), e)
        except RequestRefusedError as e:
            if e.status == 503 or is_refused(e.status, e.code, e.message):
                raise
            if e.code in _DIED and not is_second:
                await self._ask(loaded, is_second=True)
            elif e.status == 504:
                self._hold(loaded, _as_failure(e), e)
            else:
                self._failed(loaded, _as_failure(e))
        else:
            self.journal.add(loaded.row, answer.content)
            self.num_answered += 1
            self.meter.advance(failed=False)
            self._write_held()

    def _failed(self, loaded: Loaded, failure: Failure) -> None:
        self.journal.add(loaded.row, failure)
        self.codes[f"{failure.status} {failure.code}" if failure.status else failure.code] += 1
        self.meter.advance(failed=True)

    def _hold(self, loaded: Loaded, failure: Failure, error: DeadlineError | RequestRefusedError) -> None:
        """Late rows fail once another one is answered; if nobody is, the server hangs, and they stay open."""
        self._held.append((loaded, failure))
        self._late = error
        if len(self._held) >= max(self.concurrency, _MANY_LATE):
            raise error

    def _write_held(self) -> None:
        held, self._held = self._held, []
        for loaded, failure in held:
            self._failed(loaded, failure)


def _as_failure(error: RequestRefusedError) -> Failure:
    return Failure(error.code, error.message, error.status)
