"""Which signals ask `smartbatch serve` to stop, and which of them cannot wait."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequested(BaseException):
    """A signal asked to stop while the server was still coming up."""


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP ask to stop: by an exception while `interrupts`, afterwards by an event.

    A second Ctrl-C is an impatient human and means at once. Further SIGTERMs and SIGHUPs say nothing new: systemd sends
    both, and two `smartbatch stop` at once send two.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.at_once = threading.Event()
        self.interrupts = True
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's: its user wants us to outlive the terminal
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.stop.is_set():
            self.at_once.set()
        self.stop.set()
        if self.interrupts:
            self.interrupts = False
            raise StopRequested
