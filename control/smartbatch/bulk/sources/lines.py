"""Lines as rows, of a file or of stdin: a JSON body each, a text, or the path of a file.

A pipe cannot be looked at before it is read: each line's digest goes into the journal, and is held against the same
line of the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

from smartbatch_worker.contract import media_types

from smartbatch.bulk.rows import Row, UnreadableRowError
from smartbatch.bulk.sources.files import read_file
from smartbatch.client import encode_body

LINE_SUFFIXES = {".jsonl", ".ndjson"}


class LineSource:
    """A row a line; blank ones are none."""

    def __init__(self, path: Path | None) -> None:
        """Not opened yet.

        Args:
            path: None reads stdin, once.
        """
        self._path = path

    @property
    def description(self) -> Mapping[str, object]:
        """Where the lines are from; what they are, each says by its digest."""
        return {"kind": "lines", "path": "-" if self._path is None else str(self._path.absolute())}

    @property
    def total(self) -> None:
        """Unknown before the end."""
        return

    def rows(self) -> Iterator[Row]:
        """One a line."""
        with closing(self._open()) as lines:
            number = 0
            for line in lines:
                if body := line.strip():
                    digest = hashlib.blake2b(body, digest_size=8).hexdigest()
                    yield Row(number, _name(body), partial(_load, body), digest)
                    number += 1

    def _open(self) -> BinaryIO:
        # A file object of our own: a thread that waits in sys.stdin would keep Python from ending.
        return os.fdopen(os.dup(0), "rb") if self._path is None else self._path.open("rb")


def _is_json(line: bytes) -> bool:
    return line[:1] in (b"{", b"[", b'"')


def _name(line: bytes) -> str | None:
    return None if _is_json(line) else os.fsdecode(line)


def _load(line: bytes) -> tuple[bytes, str]:
    match line[:1]:
        case b"{":
            return line, media_types.JSON  # whatever it is, the server reads it, and says what is wrong
        case b"[":
            return b'{"data": ' + line + b"}", media_types.JSON
        case b'"':
            try:
                return encode_body(json.loads(line))
            except ValueError as e:
                raise UnreadableRowError(f"the line begins as a JSON text and is none: {e}") from e
    return read_file(Path(os.fsdecode(line)))
