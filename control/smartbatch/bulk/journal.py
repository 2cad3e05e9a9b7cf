"""What has been answered so far: a folder beside the output, one line a row, appended as answers come.

A process may be killed at any moment. A line is written by one call, and a last one that was cut short is cut off by
the next run, which then asks for that row again; so each row has one line, and rows tried again one more, the last of
which counts. The output is made of the journal once every row is in it, and takes its name in one step. The folder goes
when no row failed; else it stays, so that `--retry-failed` knows them.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import shutil
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from smartbatch.bulk.rows import Failure, Row
from smartbatch.errors import UsageError

JOB = "job.json"
ROWS = "rows.jsonl"
_GONE = ".gone"
_LINE = "line"
"""The key of a row's digest, which is the journal's alone."""


def folder_of(out: Path) -> Path:
    """Where the journal of an output is."""
    return out.with_name(f"{out.name}.partial")


class Journal:
    """The rows that are done; one process at a time has it open."""

    def __init__(self, out: Path, job: Mapping[str, Any]) -> None:
        """Open the journal of an output, or begin one.

        Args:
            out: the output.
            job: what is asked, as JSON: a journal that was begun for something else is refused.

        Raises:
            UsageError: the output is there without a journal, another process writes it, or it was begun for
                something else.
            OSError: the folder cannot be made or written.
        """
        self._out = out
        self._folder = folder_of(out)
        shutil.rmtree(self._folder.with_suffix(_GONE), ignore_errors=True)
        if out.exists() and not self._folder.exists():
            raise UsageError(f"{out} is there already, with no journal beside it: name another --out, or remove it")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._offsets = array("q")
        """For each row, where its line begins, plus 1; 0: it has none."""
        self._failed: set[int] = set()
        self._file = os.open(self._folder / ROWS, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            self._check(job)
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def num_done(self) -> int:
        """Rows that have a line, failed ones included."""
        return sum(map(bool, self._offsets))

    @property
    def num_rows(self) -> int:
        """One more than the last row's number."""
        return len(self._offsets)

    @property
    def failed(self) -> frozenset[int]:
        """Rows whose line is a failure."""
        return frozenset(self._failed)

    def is_done(self, row: Row) -> bool:
        """Whether a row has its line.

        Raises:
            UsageError: it has, and was made of something else then.
        """
        number = row.number
        if number >= len(self._offsets) or not self._offsets[number]:
            return False
        if row.digest is not None and self._line(number).get(_LINE) != row.digest:
            raise UsageError(
                f"row {number} of the input is not what it was when {self._out} was begun: finish that with the same "
                f"input, or remove {self._folder} to begin anew"
            )
        return True

    def add(self, row: Row, outcome: bytes | Failure) -> None:
        """Write a row's line; once this returns, no kill of this process loses it.

        Args:
            row: the row.
            outcome: the answer's body, or why there is none.
        """
        head: dict[str, Any] = {} if row.digest is None else {_LINE: row.digest}
        head |= {"row": row.number, "input": row.name}
        line = _with_answer(head, outcome) if isinstance(outcome, bytes) else _with_failure(head, outcome)
        offset = os.lseek(self._file, 0, os.SEEK_END)
        if os.write(self._file, line) != len(line):  # the part is cut off by the next run
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / ROWS))
        self._note(row.number, offset, isinstance(outcome, Failure))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Each row's line, parsed, in the order of the rows; without digests."""
        for number, offset in enumerate(self._offsets):
            if offset:
                line = self._line(number)
                line.pop(_LINE, None)
                yield line

    def raw_lines(self) -> Iterator[bytes]:
        """Each row's line as it is to be read by others, in the order of the rows."""
        for number, offset in enumerate(self._offsets):
            if offset:
                raw = self._raw(number)
                if raw.startswith(b'{"line":'):
                    line = orjson.loads(raw)
                    del line[_LINE]
                    raw = orjson.dumps(line) + b"\n"
                yield raw

    def staged(self) -> Path:
        """Where the output is made, before it takes its name."""
        return self._folder / f"staged{self._out.suffix}"

    def finish(self) -> None:
        """Give the staged output its name; the journal goes if no row failed."""
        os.fsync(self._file)
        staged = self.staged()
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(self._out)
        if not self._failed:
            # In one step: a journal without its rows, beside an output, would be begun anew.
            gone = self._folder.with_suffix(_GONE)
            self._folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another `smartbatch predict` is writing {self._out}") from None
        if os.fstat(self._file).st_nlink == 0 or not self._folder.exists():
            raise UsageError(f"another `smartbatch predict` has just finished {self._out}")

    def _check(self, job: Mapping[str, Any]) -> None:
        path = self._folder / JOB
        if not path.exists():
            staged = path.with_suffix(".tmp")
            staged.write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")
            staged.replace(path)
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != job:
            raise UsageError(
                f"{self._out} was begun for something else ({changes(before, job)}): finish it as it was begun, or "
                f"remove {self._folder} to begin anew"
            )

    def _read(self) -> None:
        """Find every line, and cut off what is no whole one."""
        end = 0
        with open(os.dup(self._file), "rb") as file:  # noqa: PTH123  # a descriptor
            file.seek(0)
            for raw in file:
                try:
                    line = orjson.loads(raw) if raw.endswith(b"\n") else None
                except orjson.JSONDecodeError:
                    line = None
                if not isinstance(line, dict) or not isinstance(line.get("row"), int):
                    break  # the last one written: a kill, or a disk that was full or lost power
                self._note(line["row"], end, "error" in line)
                end += len(raw)
        os.ftruncate(self._file, end)

    def _note(self, number: int, offset: int, failed: bool) -> None:
        if number >= len(self._offsets):
            self._offsets.extend([0] * (number + 1 - len(self._offsets)))
        self._offsets[number] = offset + 1
        (self._failed.add if failed else self._failed.discard)(number)

    def _raw(self, number: int) -> bytes:
        offset, size = self._offsets[number] - 1, 1 << 14
        while True:
            part = os.pread(self._file, size, offset)
            end = part.find(b"\n")
            if end >= 0:
                return part[: end + 1]
            assert len(part) == size, "every line that was noted has its end"
            size *= 4

    def _line(self, number: int) -> dict[str, Any]:
        line: dict[str, Any] = orjson.loads(self._raw(number))
        return line


def _with_answer(head: dict[str, Any], content: bytes) -> bytes:
    """A line with an answer as it came, where that is JSON: its numbers keep their digits."""
    try:
        orjson.loads(content)
    except orjson.JSONDecodeError:  # of another handler than ours: a text, or bytes
        try:
            return orjson.dumps({**head, "answer": content.decode()}) + b"\n"
        except UnicodeDecodeError:
            return orjson.dumps({**head, "answer": {"b64": base64.b64encode(content).decode()}}) + b"\n"
    content = content.strip()
    if b"\n" in content or b"\r" in content:
        content = orjson.dumps(orjson.loads(content))
    return orjson.dumps(head)[:-1] + b',"answer":' + content + b"}\n"


def _with_failure(head: dict[str, Any], failure: Failure) -> bytes:
    error = {"status": failure.status, "code": failure.code, "message": failure.message}
    return orjson.dumps({**head, "error": error}) + b"\n"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is asked otherwise than it was, in words."""
    other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {_shown(before.get(name))}, is {_shown(now.get(name))}" for name in other)


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
