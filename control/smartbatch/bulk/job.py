"""All of a bulk prediction: what is asked, the journal, the run, the output."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smartbatch.bulk.exchange import bulk_exchange
from smartbatch.bulk.journal import Journal, folder_of
from smartbatch.bulk.outputs import check_output, write_output
from smartbatch.bulk.reader import Reader
from smartbatch.bulk.rows import Row, Summary
from smartbatch.bulk.run import BulkRun
from smartbatch.bulk.sources import open_source
from smartbatch.client import AsyncClient
from smartbatch.client.authorization import Token
from smartbatch.client.progress import Shown
from smartbatch.errors import InterruptedRunError, SmartBatchError, UsageError
from smartbatch.remote.endpoints import Endpoints

DEFAULT_CONCURRENCY = 64
"""For a server that does not say how much it takes at once."""
_MAX_CONCURRENCY = 256
VERSION = 1
"""Of the journal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkSettings:
    """What is asked of whom."""

    source: str
    """A folder, a pattern, a file, or `-`."""
    out: Path
    model: str
    urls: Sequence[str]
    token: Token = None
    verify: bool | str = True
    columns: Sequence[str] = ()
    """Of a table."""
    paths: bool = False
    """Texts of a table are paths."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of each request."""
    concurrency: int
    deadline_s: float
    """Of each row, retries included."""
    retry_failed: bool = False


def predict_all(settings: BulkSettings, say: Callable[[str], None]) -> Summary:
    """Ask for every row that has no answer yet, and write the output once all have one, or failed.

    Args:
        settings: what is asked.
        say: told what the user should know meanwhile.

    Raises:
        UsageError: something is wrong with what is asked.
        InterruptedRunError, NotRunningError, ModelNotReadyError, DeadlineError, RequestRefusedError: the run ended
            before all rows were asked for; the message says how to go on.
        OSError: something cannot be read or written.
    """
    check_output(settings.out)
    source = open_source(settings.source, columns=settings.columns, paths=settings.paths, left_out=settings.out)
    if settings.retry_failed and not folder_of(settings.out).exists():
        raise UsageError(
            f"--retry-failed: {settings.out} has no journal beside it: no row of it failed, or none was asked"
        )
    with Journal(settings.out, _asked(settings, source.description)) as journal:
        again = journal.failed if settings.retry_failed else frozenset()
        before = journal.num_done - len(again)
        if before or again:
            say(
                f"{settings.out}: {before} rows are done"
                + (f", {len(again)} that failed are tried again" if again else "")
            )
        shown = Shown(source.total, done=before, failed=len(journal.failed - again))
        began = time.monotonic()
        try:
            codes = asyncio.run(_run(settings, source.rows(), journal, again, shown))
        except SmartBatchError as e:
            if isinstance(e, UsageError):
                raise
            raise _with_advice(e, settings, shown) from e
        seconds = time.monotonic() - began
        write_output(journal, settings.out)
        journal.finish()
        failed = len(journal.failed)
        return Summary(
            out=str(settings.out),
            rows=journal.num_rows,
            answered=journal.num_rows - failed,
            failed=failed,
            seconds=round(seconds, 3),
            rows_per_s=round((shown.num_done - before) / max(seconds, 1e-9), 1),
            failures=dict(codes),
        )


def concurrency_for(endpoints: Endpoints, model: str) -> int:
    """Twice what the model's workers take at once, so that the next batch waits when one is answered."""
    if endpoints.state is None and not endpoints.is_guess:
        return DEFAULT_CONCURRENCY  # known by its inference port alone; who listens on the standard ports is another
    try:
        with endpoints.management() as management:
            status = management.describe(model.partition("/")[0])
    except SmartBatchError:
        return DEFAULT_CONCURRENCY
    wanted = 2 * status.batch_size * max(len(status.workers), 1)
    queue = status.pending_requests + status.queue_remaining
    return max(2, min(wanted, _MAX_CONCURRENCY, queue or wanted))


async def _run(
    settings: BulkSettings, rows: Iterator[Row], journal: Journal, again: frozenset[int], shown: Shown
) -> Counter[str]:
    client = AsyncClient(
        settings.urls,
        settings.model,
        settings.token,
        deadline_s=settings.deadline_s,
        exchange=bulk_exchange(settings.urls, settings.verify),
    )
    before = journal.num_rows
    tried = set(again)

    def is_done(row: Row) -> bool:
        return journal.is_done(row) and row.number not in tried

    async with aclosing(client):
        reader = Reader(rows, is_done, ahead=max(2 * settings.concurrency, 16))
        with shown:
            run = BulkRun(client, journal, settings.concurrency, settings.headers, shown)
            await run.run(reader)
    if reader.num_seen < before:
        raise UsageError(f"the input has {reader.num_seen} rows, and {before} when {settings.out} was begun")
    assert journal.num_done == reader.num_seen, "every row has an answer or a failure"
    return run.codes


def _asked(settings: BulkSettings, source: Mapping[str, object]) -> dict[str, Any]:
    """What makes a run another one; not where the server is, nor how fast it is asked."""
    return {"version": VERSION, "model": settings.model, "headers": dict(settings.headers), "source": dict(source)}


def _with_advice(error: SmartBatchError, settings: BulkSettings, shown: Shown) -> SmartBatchError:
    """The same error, and what to do."""
    of = "" if shown.total is None else f" of {shown.total}"
    advice = f"{shown.num_done}{of} rows are done; the same command goes on from there"
    if settings.source == "-":
        advice += ", given the same lines"
    if isinstance(error, InterruptedRunError):
        return InterruptedRunError(f"{error}: {advice}")
    told = SmartBatchError(f"{error}; {advice}")
    told.exit_code = error.exit_code
    return told
