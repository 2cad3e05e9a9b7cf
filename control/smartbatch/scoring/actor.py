"""What Ray runs, one a core's share or GPU: reads a part, has it answered, writes it.

What runs of the data plane is the archive's: it is imported within functions, once `take_over` has seen to that.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from smartbatch.errors import SmartBatchError
from smartbatch.scoring import worker
from smartbatch.scoring.destination import MAX_DEATHS, Destination
from smartbatch.scoring.parts import Done, Part
from smartbatch.scoring.places import place_of

if TYPE_CHECKING:
    from smartbatch.bulk.reader import Loaded
    from smartbatch.scoring.inputs import InputSettings

_ATTEMPTS = 3
"""At a part whose input or output cannot be read or written."""
_BATCHES_AHEAD = 2


class DiedError(SmartBatchError):
    """A part is left, for processes die of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What all actors do."""

    input: InputSettings
    out: str
    headers: Mapping[str, str]
    batch_size: int
    cpus: int
    """Threads of the forward."""
    has_gpu: bool
    environment: Mapping[str, str]
    """Variables that the handler reads, of where the command was typed."""


class Scorer:
    """A class for `ray.data.Dataset.map_batches`: parts in, what became of them out."""

    def __init__(self, task: Task, archive: Sequence[Any]) -> None:
        """Start the handler.

        Args:
            task: what is asked.
            archive: one object of Ray's: the .mar's bytes, as uint8 [N].
        """
        import ray

        self._parts = PartScorer(task, ray.get(archive[0]))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Do some parts.

        Args:
            batch: `part`, each as JSON.

        Returns:
            `done`, the fields of a `Done` each, as JSON.
        """
        return {"done": [json.dumps(self._parts.do(Part.from_json(str(part)))) for part in batch["part"]]}


class PartScorer:
    """The handler, started, and what it reads and writes; makes its process the archive's.

    Args:
        task: what is asked.
        archive: the .mar's bytes.
    """

    def __init__(self, task: Task, archive: Any) -> None:
        self._task = task
        self._broken: str | None = None
        folder = worker.unpack(BytesIO(archive))
        worker.take_over(folder, {**task.environment, "SMARTBATCH_THREADS": str(task.cpus)})
        from smartbatch.scoring.inputs import open_input

        self._input = open_input(task.input)
        self._out = Destination(place_of(task.out))
        try:
            self._worker = worker.Worker(folder, task.batch_size, 0 if task.has_gpu else None)
        except worker.BrokenModelError as e:
            self._broken = f"{e} (process {os.getpid()} on {os.uname().nodename})"

    def do(self, part: Part) -> dict[str, Any]:
        """Answer and write a part; where the model does not start, every part says so.

        Returns:
            The fields of its `Done`.
        """
        if self._broken is not None:
            return _not_done(part, self._broken, is_fatal=True)
        attempts = Retrying(
            retry=retry_if_exception_type(OSError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(max=30),
            reraise=True,
        )
        began = time.monotonic()
        try:
            done = attempts(self._do, part)
        except Exception as e:  # of this part: a shard cut short, a disk that is full
            return _not_done(part, str(e) if isinstance(e, SmartBatchError) else f"{type(e).__name__}: {e}")
        return {
            "number": done.number,
            "rows": done.rows,
            "failures": done.failures,
            "seconds": time.monotonic() - began,
        }

    def _do(self, part: Part) -> Done:
        # One that is there was written by an attempt whose process died before it could say so.
        there = self._out.look_at(part.number)
        if there is not None:
            return there
        died = self._out.note_attempt(part.number)
        try:
            if died >= MAX_DEATHS:
                raise DiedError(f"{died} processes died at it; their last words are in Ray's logs")
            return self._answer(part)
        finally:
            self._out.end_attempts(part.number)

    def _answer(self, part: Part) -> Done:
        outcomes = []
        for batch in ahead(self._input.read(part), self._task.batch_size):
            given = [(loaded.body, loaded.content_type) for loaded in batch if loaded.failure is None]
            answers = iter(self._worker.answer(given, self._task.headers) if given else [])
            outcomes += [(loaded.row, loaded.failure or next(answers)) for loaded in batch]
        return self._out.write(part.number, outcomes)


def ahead(rows: Iterator[Any], batch_size: int) -> Iterator[list[Loaded]]:
    """Batches of rows with their bodies, which a thread reads while the ones before are answered.

    Raises:
        Exception: whatever reading raised.
    """
    from smartbatch.bulk.reader import load

    ready: queue.Queue[list[Loaded] | Exception | None] = queue.Queue(_BATCHES_AHEAD)
    stopped = threading.Event()

    def put(item: list[Loaded] | Exception | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            loaded = map(load, rows)
            while not stopped.is_set() and (batch := list(islice(loaded, batch_size))):
                put(batch)
        except Exception as e:  # raised where the batches are waited for
            put(e)
        else:
            put(None)

    thread = threading.Thread(target=read, name="smartbatch-score-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _not_done(part: Part, error: str, *, is_fatal: bool = False) -> dict[str, Any]:
    return {"number": part.number, "failures": {}, "error": error, "is_fatal": is_fatal}
