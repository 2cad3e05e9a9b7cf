"""Many predictions, several at a time, answered in the order of their inputs, with bounded memory.

No more than twice as many inputs are taken as requests may be out, so that one slow answer does not leave the others
idle, and inputs without an end can be mapped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Sized,
)
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from smartbatch.client.prediction import Prediction
from smartbatch.client.progress import Meter, Progress, meter
from smartbatch.errors import UsageError

DEFAULT_CONCURRENCY = 32
"""One batch as the server makes them by default: with fewer, batches are never full."""
_AHEAD = 2


def checked(concurrency: int, on_error: str) -> None:
    """Look at what `map` was given.

    Raises:
        UsageError: one of them breaks its rule.
    """
    if concurrency < 1:
        raise UsageError(f"concurrency must be at least 1, got {concurrency}")
    if on_error not in ("raise", "return"):
        raise UsageError(f"on_error must be 'raise' or 'return', got {on_error!r}")


def map_in_threads(
    predict: Callable[[Any], Prediction],
    inputs: Iterable[Any],
    concurrency: int,
    *,
    returns: bool,
    progress: Progress,
) -> Generator[Prediction | Exception]:
    """Answers by threads. What is still out when the caller takes no more is waited for, and nothing is begun.

    Args:
        predict: one of them.
        inputs: taken by the caller's thread, as answers are.
        concurrency: threads, and requests that are out.
        returns: whether errors are given in the place of answers.
        progress: what is shown.
    """
    waiting: deque[Future[Prediction]] = deque()
    with meter(progress, _len(inputs)) as shown, ThreadPoolExecutor(concurrency, "smartbatch-client") as threads:
        try:
            for body in inputs:
                waiting.append(threads.submit(predict, body))
                while waiting and (len(waiting) >= _AHEAD * concurrency or waiting[0].done()):
                    yield _outcome(waiting.popleft(), returns, shown)
            while waiting:
                yield _outcome(waiting.popleft(), returns, shown)
        finally:
            for each in waiting:
                each.cancel()


def _outcome(future: Future[Prediction], returns: bool, shown: Meter) -> Prediction | Exception:
    error = future.exception()
    shown.advance(failed=error is not None)
    if error is None:
        return future.result()
    if returns and isinstance(error, Exception):
        return error
    raise error


async def map_in_tasks(
    predict: Callable[[Any], Awaitable[Prediction]],
    inputs: Iterable[Any] | AsyncIterable[Any],
    concurrency: int,
    *,
    returns: bool,
    progress: Progress,
) -> AsyncGenerator[Prediction | Exception]:
    """Answers by tasks, which are cancelled when the caller takes no more. Otherwise as `map_in_threads`."""
    room = asyncio.Semaphore(concurrency)

    async def one(body: Any) -> Prediction:
        async with room:
            return await predict(body)

    waiting: deque[asyncio.Task[Prediction]] = deque()
    with meter(progress, _len(inputs)) as shown:
        try:
            async for body in _each(inputs):
                waiting.append(asyncio.create_task(one(body)))
                while waiting and (len(waiting) >= _AHEAD * concurrency or waiting[0].done()):
                    yield await _outcome_of_task(waiting, returns, shown)
            while waiting:
                yield await _outcome_of_task(waiting, returns, shown)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _outcome_of_task(
    waiting: deque[asyncio.Task[Prediction]], returns: bool, shown: Meter
) -> Prediction | Exception:
    """The first one's; it stays among those that wait until it is done, so that it is cancelled with them."""
    if not waiting[0].done():
        await asyncio.wait([waiting[0]])
    task = waiting.popleft()
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    shown.advance(failed=error is not None)
    if error is None:
        return task.result()
    if returns and isinstance(error, Exception):
        return error
    raise error


async def _each(inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(inputs, AsyncIterable):
        async for body in inputs:
            yield body
    else:
        for body in inputs:
            yield body


def _len(inputs: object) -> int | None:
    return len(inputs) if isinstance(inputs, Sized) else None
