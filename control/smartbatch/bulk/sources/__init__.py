"""What `smartbatch predict` can be pointed at: folders, patterns, files, tables, lines; `open_source` tells which.

What a source is stands in `bulk.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smartbatch.bulk.rows import Source
from smartbatch.bulk.sources.files import FileSource, files_in, files_like
from smartbatch.bulk.sources.lines import LINE_SUFFIXES, LineSource
from smartbatch.bulk.sources.tables import PARQUET, TableSource
from smartbatch.errors import UsageError

__all__ = ["PARQUET", "open_source"]


def open_source(given: str, *, columns: Sequence[str] = (), paths: bool = False, left_out: Path) -> Source:
    """The rows that a command line names.

    Args:
        given: a folder, a pattern, a file (`.parquet`: its rows; `.jsonl`: its lines; any other: that one), or `-`.
        columns: of a table: the one that holds bodies, or those that are the model's named inputs.
        paths: texts of a table are paths of files.
        left_out: the output, which a folder or a pattern may find.

    Raises:
        UsageError: nothing is there, or the options do not fit what is.
    """
    path = Path(given)
    if path.suffix.lower() == PARQUET and path.is_file():
        return TableSource(path, columns, paths=paths)
    if columns or paths:
        raise UsageError(f"--column and --paths are for a {PARQUET} file, got {given!r}")
    if given == "-":
        return LineSource(None)
    if path.is_dir():
        return FileSource(given, files_in(path, left_out))
    if path.is_file():
        return LineSource(path) if path.suffix.lower() in LINE_SUFFIXES else FileSource(given, [path])
    return FileSource(given, files_like(given, left_out))
