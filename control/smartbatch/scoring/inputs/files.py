"""A row a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

from smartbatch_worker.contract import media_types

from smartbatch.bulk.rows import Row, UnreadableRowError
from smartbatch.errors import UsageError
from smartbatch.scoring.parts import Part
from smartbatch.scoring.places import Found, Place


class FileInput:
    """All files below a folder whose names end as those of a body do."""

    SUFFIXES = tuple(media_types.BY_SUFFIX)

    def __init__(self, place: Place, columns: Sequence[str], *, paths: bool) -> None:
        if columns:
            raise UsageError(f"--column is for Parquet and for shards of WebDataset; {place.uri!r} holds files")
        self._place = place
        self.columns: Sequence[str] = ()

    def plan(self, found: Sequence[Found], part_rows: int) -> list[Part]:
        """So many files a part."""
        chunks = [found[start : start + part_rows] for start in range(0, len(found), part_rows)]
        return [Part(number, tuple(one.name for one in chunk), rows=len(chunk)) for number, chunk in enumerate(chunks)]

    def read(self, part: Part) -> Iterator[Row]:
        """One a file."""
        for number, name in enumerate(part.files):
            place = self._place.child(name)
            yield Row(number, place.uri, partial(read_place, place))


def read_place(place: Place) -> tuple[bytes, str]:
    """A file's bytes, and what they are.

    Raises:
        UnreadableRowError: it cannot be read.
    """
    try:
        return place.read(), media_types.BY_SUFFIX.get(PurePosixPath(place.path).suffix.lower(), media_types.ANY)
    except OSError as e:
        raise UnreadableRowError(f"{place.uri}: {getattr(e, 'strerror', None) or e}") from e
