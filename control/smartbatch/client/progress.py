"""How far many predictions are: a bar on a terminal, a line now and then elsewhere, or a function that is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

Progress = bool | Callable[[int, int], None] | None
"""What `map` takes: True for a bar, or a function of how many are done, and how many of them failed."""

_LINE_EVERY_S = 10.0
_SHOWN_EVERY_S = 0.25
"""Drawing a bar takes milliseconds, which the requests on the same cores would lack."""


class Meter(Protocol):
    """Somebody who is told of each answer."""

    def advance(self, *, failed: bool) -> None:
        """One more is done."""

    def __enter__(self) -> Meter:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state."""


class Counts:
    """A meter that shows nothing, or tells a function."""

    def __init__(self, told: Callable[[int, int], None] | None = None) -> None:
        self._told = told
        self.num_done = 0
        self.num_failed = 0

    def advance(self, *, failed: bool) -> None:
        """One more is done."""
        self.num_done += 1
        self.num_failed += failed
        if self._told is not None:
            self._told(self.num_done, self.num_failed)

    def __enter__(self) -> Counts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Shown:
    """A meter on stderr: a bar with rate, errors and time left; a line every ten seconds where it is no terminal."""

    def __init__(self, total: int | None, *, done: int = 0, failed: int = 0, stream: TextIO | None = None) -> None:
        """Nothing is shown yet.

        Args:
            total: how many there are; None where nobody knows.
            done: how many of them an earlier run has done.
            failed: how many of those failed.
            stream: where to; None takes stderr.
        """
        self._stream = stream or sys.stderr
        self.total = total
        self._before = done
        self.num_done = done
        self.num_failed = failed
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._began = self._shown = time.monotonic()

    def advance(self, *, failed: bool) -> None:
        """One more is done."""
        self.add(1, int(failed))

    def add(self, done: int, failed: int) -> None:
        """So many more are done, so many of which failed."""
        self.num_done += done
        self.num_failed += failed
        now = time.monotonic()
        if now - self._shown >= (_LINE_EVERY_S if self._bar is None else _SHOWN_EVERY_S):
            self._show(now)

    @property
    def rate(self) -> float:
        """Answers a second, of this run."""
        return (self.num_done - self._before) / max(time.monotonic() - self._began, 1e-9)

    def __enter__(self) -> Shown:
        self._began = self._shown = time.monotonic()
        if self._stream.isatty():
            self._bar, self._task = _bar(self._stream, self.total, self.num_done)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show(time.monotonic())
            self._bar.stop()

    def _show(self, now: float) -> None:
        self._shown = now
        if self._bar is not None:
            assert self._task is not None
            self._bar.update(self._task, completed=self.num_done, said=f"{self.rate:.1f}/s, {self.num_failed} failed")
            return
        of = f" of {self.total}" if self.total is not None else ""
        left = ""
        if self.total is not None and self.rate > 0:
            left = f", {(self.total - self.num_done) / self.rate:.0f} s left"
        line = f"{self.num_done}{of} done, {self.rate:.1f}/s, {self.num_failed} failed{left}"
        print(line, file=self._stream, flush=True)


def meter(progress: Progress, total: int | None) -> Meter:
    """What `map` was asked to show."""
    if callable(progress):
        return Counts(progress)
    return Shown(total) if progress else Counts()


def _bar(stream: TextIO, total: int | None, done: int) -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
        refresh_per_second=1 / _SHOWN_EVERY_S,
    )
    return bar, bar.add_task("", total=total, completed=done, said="")
