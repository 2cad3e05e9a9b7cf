"""Ctrl-C as a fact to look at, never an exception in the middle of a line.

A KeyboardInterrupt between starting a process and remembering its id leaks the process. So while a run goes
on, the signals only set an event, everything that waits waits on that event, and the run ends in order.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import FrameType, TracebackType
from typing import Any, TypeVar

from smartbatch.server.stopping.stop_signals import Flag

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.1


class Interrupted(Exception):
    """The user asked the run to end: an ending, not an error."""


class Interrupt:
    """Context manager that holds the signals that end a run; to be used in the main thread."""

    def __init__(self) -> None:
        self._event = Flag()
        self._previous: dict[signal.Signals, Any] = {}
        self.signal_name = ""
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Interrupt:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._pool.shutdown()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Interrupted: a signal came, now or earlier.
        """
        if self._event.wait(seconds):
            raise Interrupted(self.signal_name)

    def watch(self, function: Callable[[], T]) -> T:
        """Run something that makes nothing to be lost, such as a request; a signal abandons it.

        Raises:
            Interrupted: a signal came; `function` may still be running in a daemon thread.
        """
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="watched", daemon=True).start()
        while not future.done():
            self.sleep(0)
            wait([future], timeout=POLL_S)
        return future.result()

    def call(self, function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Run something that cannot look at the event itself, in a thread that lives as long as this object.

        That long, because a server asks the kernel to be ended when the thread that started it ends.

        Args:
            function: what to run; it is always waited for, so that what it makes is never lost.
            undo: what to do with its result if a signal came meanwhile.

        Raises:
            Interrupted: a signal came; `function` has ended and `undo` is done.
        """
        self.sleep(0)
        future = self._pool.submit(function)
        while not future.done():
            wait([future], timeout=POLL_S)
        if future.exception() is not None and self.is_set:  # a child may have died of the same Ctrl-C
            raise Interrupted(self.signal_name) from future.exception()
        result = future.result()
        if self.is_set:
            if undo is not None:
                undo(result)
            raise Interrupted(self.signal_name)
        return result
