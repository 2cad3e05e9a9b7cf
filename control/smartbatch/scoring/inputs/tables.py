"""Parquet: a row a row, a part some row groups of one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from smartbatch.bulk.rows import Row
from smartbatch.bulk.sources.columns import Columns
from smartbatch.bulk.sources.tables import BATCH_ROWS, PARQUET, wanted_columns
from smartbatch.errors import UsageError
from smartbatch.scoring.inputs.files import read_place
from smartbatch.scoring.parts import Part
from smartbatch.scoring.places import Found, Place, place_of

_LOOKED_AT_ONCE = 16


class TableInput:
    """All .parquet files below a folder, or one; its columns are those of `smartbatch predict`."""

    SUFFIXES = (PARQUET,)

    def __init__(self, place: Place, columns: Sequence[str], *, paths: bool) -> None:
        self._place, self._paths = place, paths
        self.columns = columns

    def plan(self, found: Sequence[Found], part_rows: int) -> list[Part]:
        """Row groups of one file until they have so many rows; one that has more is a part of its own."""
        with ThreadPoolExecutor(_LOOKED_AT_ONCE) as pool:
            looked_at = list(pool.map(self._look_at, [one.name for one in found]))
        parts: list[Part] = []
        for one, (names, sizes) in zip(found, looked_at, strict=True):
            self.columns = wanted_columns(self.columns, names, self._place.child(one.name).uri)
            groups: list[int] = []
            first = rows = 0
            for group, size in enumerate(sizes):
                groups.append(group)
                rows += size
                if rows >= part_rows or group == len(sizes) - 1:
                    if rows:
                        parts.append(Part(len(parts), (one.name,), rows, first, tuple(groups)))
                    first, rows, groups = first + rows, 0, []
        if not parts:
            raise UsageError(f"{self._place.uri} has no rows")
        return parts

    def read(self, part: Part) -> Iterator[Row]:
        """One a row."""
        import pyarrow.parquet as pq

        place = self._place.child(part.files[0])
        number = 0
        with place.open() as stream, pq.ParquetFile(stream) as file:
            kind = file.schema_arrow.field(self.columns[0]).type
            columns = Columns(self.columns, kind, paths=self._paths, read_file=self._read_file)
            for batch in file.iter_batches(
                BATCH_ROWS, row_groups=list(part.groups), columns=list(self.columns), use_threads=False
            ):
                for values in batch.to_pylist():
                    name = columns.name(values) or f"{place.uri}#{part.first_row + number}"
                    yield Row(number, name, partial(columns.load, values))
                    number += 1

    def _look_at(self, name: str) -> tuple[list[str], list[int]]:
        """A file's columns, and the rows of its groups."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = self._place.child(name)
        try:
            with place.open() as stream, pq.ParquetFile(stream) as file:
                there: Any = file.metadata
                sizes = [there.row_group(group).num_rows for group in range(there.num_row_groups)]
                return list(file.schema_arrow.names), sizes
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            raise UsageError(f"{place.uri} is no Parquet file that can be read: {e}") from e

    @staticmethod
    def _read_file(name: str) -> tuple[bytes, str]:
        return read_place(place_of(name))
