"""Files as rows: those of a folder, those that a pattern fits, or one."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from smartbatch_worker.contract import media_types

from smartbatch.bulk.rows import Row, UnreadableRowError
from smartbatch.client import encode_body
from smartbatch.errors import UsageError

_SUFFIXES = ", ".join(media_types.BY_SUFFIX)


def files_in(folder: Path, left_out: Path) -> list[Path]:
    """All files below a folder, in order, whose names end as those of a body do; hidden ones are none.

    Raises:
        UsageError: there is none.
    """
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in media_types.BY_SUFFIX
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and _is_input(path, left_out)
    ]
    if not found:
        raise UsageError(f"{folder} holds no file that ends in {_SUFFIXES}; a pattern takes others: '{folder}/*.dat'")
    return found


def files_like(pattern: str, left_out: Path) -> list[Path]:
    """All files that a pattern fits, in order; `**` stands for any folders.

    Raises:
        UsageError: there is none.
    """
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
    found = [path for path in map(Path, names) if _is_input(path, left_out)]
    if not found:
        raise UsageError(f"FILE must be a file, a folder, a pattern that fits files, or -, got {pattern!r}")
    return found


def _is_input(path: Path, left_out: Path) -> bool:
    beside = left_out.name + "."  # the journal's folder
    return path.is_file() and not any(part == left_out.name or part.startswith(beside) for part in path.parts)


class FileSource:
    """A row a file, by the end of its name what it is."""

    def __init__(self, given: str, paths: Sequence[Path]) -> None:
        self._given = given
        self._paths = paths

    @property
    def description(self) -> Mapping[str, object]:
        """Names, sizes and times of all files, as a digest."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self._paths:
            seen = path.stat()
            digest.update(f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return {"kind": "files", "given": self._given, "files": len(self._paths), "digest": digest.hexdigest()}

    @property
    def total(self) -> int:
        """How many files there are."""
        return len(self._paths)

    def rows(self) -> Iterator[Row]:
        """One a file."""
        for number, path in enumerate(self._paths):
            yield Row(number, str(path), partial(read_file, path))


def read_file(path: Path) -> tuple[bytes, str]:
    """A file's bytes, and what they are.

    Raises:
        UnreadableRowError: it cannot be read.
    """
    try:
        return encode_body(path)
    except (OSError, ValueError) as e:  # ValueError: a path with a zero byte in it
        raise UnreadableRowError(f"{path}: {getattr(e, 'strerror', None) or e}") from e
