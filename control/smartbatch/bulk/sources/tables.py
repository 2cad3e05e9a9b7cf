"""A Parquet file's rows: one column that holds bodies, or several that are a model's named inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from smartbatch.bulk.rows import Row
from smartbatch.bulk.sources.columns import Columns
from smartbatch.bulk.sources.files import read_file
from smartbatch.errors import UsageError
from smartbatch.installation import need

PARQUET = ".parquet"
BATCH_ROWS = 32
"""Read at once: pictures of megabytes are to fit into memory too."""


class TableSource:
    """A row a row; what its columns become stands in `columns`."""

    def __init__(self, path: Path, columns: Sequence[str], *, paths: bool) -> None:
        """Look at the file's columns.

        Raises:
            UsageError: pyarrow is not installed, the file is no Parquet, or has no such column, or several and none is
                named.
        """
        need("bulk", "a .parquet file")
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path, self._paths = path, paths
        try:
            with pq.ParquetFile(path) as file:
                schema, self.total = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            raise UsageError(f"{path} is no Parquet file that can be read: {e}") from e
        self._names = wanted_columns(columns, schema.names, str(path))
        kind = schema.field(self._names[0]).type
        self._columns = Columns(self._names, kind, paths=paths, read_file=lambda name: read_file(Path(name)))

    @property
    def description(self) -> Mapping[str, object]:
        """Path, size and time of the file, and what is taken of it."""
        seen = self._path.stat()
        return {
            "kind": "table",
            "path": str(self._path.absolute()),
            "size": seen.st_size,
            "mtime_ns": seen.st_mtime_ns,
            "columns": self._names,
            "paths": self._paths,
        }

    def rows(self) -> Iterator[Row]:
        """One a row."""
        import pyarrow.parquet as pq

        number = 0
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=self._names, use_threads=False):
                for values in batch.to_pylist():
                    yield Row(number, self._columns.name(values), partial(self._columns.load, values))
                    number += 1


def wanted_columns(given: Sequence[str], there: Sequence[str], path: str) -> list[str]:
    """The columns that are the input.

    Raises:
        UsageError: the file has no such column, or several and none is named.
    """
    has = ", ".join(there)
    if not given and len(there) != 1:
        raise UsageError(f"--column must say which column of {path} holds the inputs; it has {has}")
    for name in given:
        if name not in there:
            raise UsageError(f"--column must be a column of {path}, which has {has}; got {name!r}")
    return list(given) or list(there)
