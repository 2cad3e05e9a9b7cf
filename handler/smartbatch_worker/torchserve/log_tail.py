"""The new lines of a file that another process writes, rotates and may cut short."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MAX_READ_BYTES = 4 * 2**20  # a read's worth of lines; a backlog takes several


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one file."""

    inode: int
    offset: int


def end_of(path: Path) -> Position | None:
    """Where the file ends now; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Position(found.st_ino, found.st_size)


class LogTail:
    """Reads `path` line by line from `start` on, and goes on with the file that takes its place.

    Args:
        path: need not exist yet.
        start: where to begin; None, or a place in a file that is not there any more, is the beginning.
    """

    def __init__(self, path: Path, start: Position | None) -> None:
        self._path = path
        self._start = start
        self._log: IO[bytes] | None = None

    @property
    def position(self) -> Position | None:
        """The end of what has been read."""
        if self._log is None:
            return self._start
        return Position(os.fstat(self._log.fileno()).st_ino, self._log.tell())

    def read(self) -> list[bytes]:
        """Whole lines that have come since the last call; one still being written is left for the next.

        Call again at once while it gives something: it reads `MAX_READ_BYTES` at most.

        Raises:
            OSError: it cannot be read, or is no plain file.
        """
        if self._log is None and not self._open():
            return []
        lines = self._read_on()
        if not lines and self._was_rotated():
            lines = self._read_on()  # what was written between the read above and the rotation
            if not lines:
                self.close()
                self._start = None
                return self._read_on() if self._open() else []
        return lines

    def close(self) -> None:
        """Let go of the file; `position` stays."""
        if self._log is not None:
            self._start = self.position
            self._log.close()
            self._log = None

    def _open(self) -> bool:
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                # A pipe would be waited for, and a device as /dev/full reads without an end.
                raise OSError(f"{self._path} is no plain file")
            self._log = self._path.open("rb")
        except FileNotFoundError:
            return False
        found = os.fstat(self._log.fileno())
        start = self._start
        if start is not None and start.inode == found.st_ino and 0 <= start.offset <= found.st_size:
            self._log.seek(start.offset)
        return True

    def _read_on(self) -> list[bytes]:
        assert self._log is not None
        if os.fstat(self._log.fileno()).st_size < self._log.tell():
            self._log.seek(0)  # emptied in place, as logrotate's copytruncate does
        chunk = self._log.read(MAX_READ_BYTES)
        end = chunk.rfind(b"\n") + 1
        if end == 0 and len(chunk) == MAX_READ_BYTES:
            return [b""]  # no log has such lines: it is the hole before the first line after an emptying
        self._log.seek(end - len(chunk), os.SEEK_CUR)
        return chunk[:end].splitlines()

    def _was_rotated(self) -> bool:
        assert self._log is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._log.fileno()).st_ino
        except FileNotFoundError:
            return True
