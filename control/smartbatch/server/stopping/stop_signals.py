"""Which signals ask `smartbatch serve` to stop, and which of them cannot wait."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType


class StopRequested(BaseException):
    """A signal asked to stop while the server was still coming up."""


class Flag(threading.Event):
    """An event that a signal's handler may set.

    `threading.Event` has a lock that its `wait` holds for moments; a handler runs in the very thread that waits, and
    its `set` would wait for that lock for ever.
    """

    _STEP_S = 0.1

    def __init__(self) -> None:
        super().__init__()
        self._raised = False

    def set(self) -> None:
        """Raise it."""
        self._raised = True

    def is_set(self) -> bool:
        """Whether it was raised."""
        return self._raised

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is raised, or so many seconds have passed; whether it was raised."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while not self._raised:
            left_s = self._STEP_S if end_s is None else min(self._STEP_S, end_s - time.monotonic())
            if left_s <= 0:
                break
            time.sleep(left_s)
        return self._raised


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP ask to stop: by an event, and while `interrupts` by an exception at any line.

    So it interrupts only where whoever catches that knows what there is to stop: an exception between starting a server
    and remembering it would leave that behind.

    A second Ctrl-C is an impatient human and means at once. Further SIGTERMs and SIGHUPs say nothing new: systemd sends
    both, and two `smartbatch stop` at once send two.
    """

    def __init__(self) -> None:
        self.stop = Flag()
        self.at_once = Flag()
        self.interrupts = False
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's: its user wants us to outlive the terminal
            signal.signal(signal.SIGHUP, self._handle)

    def raise_if_asked(self) -> None:
        """Raise StopRequested if a signal came."""
        if self.stop.is_set():
            self.interrupts = False
            raise StopRequested

    def begin_to_interrupt(self) -> None:
        """From now on raise StopRequested as soon as a signal comes; at once if one has come."""
        self.interrupts = True
        self.raise_if_asked()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.stop.is_set():
            self.at_once.set()
        self.stop.set()
        if self.interrupts:
            self.interrupts = False
            raise StopRequested
