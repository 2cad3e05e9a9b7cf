"""What a worker prints, kept apart from what TorchServe takes for its own.

TorchServe reads metrics, and a worker's process id, as lines on the worker's stdout and stderr. A line of the log, of a
traceback or of a model's own `print` may quote what a client sent, and so must never begin as one of those: a client
could else write metrics. Once `guard` was called, a space stands before each such line; metric lines go past it.

C code that writes to the file descriptors itself is not seen here.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

# What java.util.Scanner ends a line at, in UTF-8 or Latin-1, before what TorchServe 0.12 takes for its own:
# "[METRICS]…" and "[PID]…", or "INFO > " and one of those.
_FOREIGN_LINE = re.compile(rb"(?:(?<=[\n\r\x85])|(?<=\xe2\x80[\xa8\xa9]))(?=[\[I])")
_LINE_BREAKS = re.compile(r"[\n\r\x85\u2028\u2029]+")
_LONGEST_BREAK = 3
_METRICS_LOGGER = "ts.metrics.caching_metric"

_write_lines: Callable[[str], None] | None = None


class LineGuard:
    """Puts a space before every line of a stream that begins as TorchServe's own do."""

    def __init__(self) -> None:
        self._tail = b"\n"

    @property
    def is_at_line_start(self) -> bool:
        """Whether what was written last ends a line."""
        return self._tail.endswith(b"\n")

    def guard(self, text: bytes) -> bytes:
        """What to write for `text`; a line, or its first characters, may come in any number of pieces."""
        if not text:
            return text
        whole = self._tail + text
        starts = [line.start() for line in _FOREIGN_LINE.finditer(whole, len(self._tail))]
        cuts = [len(self._tail), *starts, len(whole)]
        self._tail = whole[-_LONGEST_BREAK:]
        return b" ".join(whole[start:end] for start, end in itertools.pairwise(cuts))

    def restart(self) -> None:
        """A whole line was written past the guard."""
        self._tail = b"\n"


class _GuardedFile(io.RawIOBase):
    """A file descriptor that is written through a LineGuard, by any number of threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._guard = LineGuard()
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: Any, /) -> int:
        block = bytes(text)
        with self._lock:
            self._write_all(self._guard.guard(block))
        return len(block)

    def write_lines(self, lines: bytes) -> None:
        """Write whole lines as they are, on lines of their own."""
        with self._lock:
            self._write_all(lines if self._guard.is_at_line_start else b"\n" + lines)
            self._guard.restart()

    def _write_all(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]


class _MetricLines(logging.Handler):
    """TorchServe's own metrics, which it writes with a logger."""

    def __init__(self, write_lines: Callable[[str], None]) -> None:
        super().__init__()
        self._write_lines = write_lines

    def emit(self, record: logging.LogRecord) -> None:
        # A line break in a label would begin a line of the labeller's choosing.
        self._write_lines(_LINE_BREAKS.sub(" ", record.getMessage()) + "\n")


def guard() -> Callable[[str], None]:
    """Guard this process's stdout and stderr, once.

    Returns:
        What writes whole lines to stdout as they are.
    """
    global _write_lines
    if _write_lines is None:
        file = _guard_stream("stdout")
        _guard_stream("stderr")

        def write_lines(lines: str) -> None:
            file.write_lines(lines.encode("utf-8", "replace"))

        metrics = logging.getLogger(_METRICS_LOGGER)
        metrics.addHandler(_MetricLines(write_lines))
        metrics.propagate = False
        _write_lines = write_lines
    return _write_lines


def _guard_stream(name: str) -> _GuardedFile:
    """Replace sys.stdout or sys.stderr, in the loggers that have it too; the old one stays open as sys.__stdout__."""
    old: TextIO = getattr(sys, name)
    old.flush()
    file = _GuardedFile(old.fileno())
    new = io.TextIOWrapper(
        io.BufferedWriter(file), encoding=old.encoding, errors=old.errors, line_buffering=True, newline="\n"
    )
    setattr(sys, name, new)
    for logger in [logging.getLogger(), *map(logging.getLogger, list(logging.Logger.manager.loggerDict))]:
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)
    return file
