"""A Parquet file's rows: one column that holds bodies, or several that are a model's named inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from smartbatch_worker.contract import media_types

from smartbatch.bulk.rows import Row, UnreadableRowError
from smartbatch.bulk.sources.files import read_file
from smartbatch.client import encode_body
from smartbatch.errors import UsageError
from smartbatch.installation import need

PARQUET = ".parquet"
_BATCH_ROWS = 32
"""Read at once: pictures of megabytes are to fit into memory too."""


class TableSource:
    """A row a row.

    One column: binary is the body; text is a text, or with `paths` a file's path; lists are numbers; a struct of
    `bytes` and `path` is a picture as Hugging Face's data sets have it. Several columns: named inputs, as JSON.
    """

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
        there = ", ".join(schema.names)
        if not columns and len(schema.names) != 1:
            raise UsageError(f"--column must say which column of {path} holds the inputs; it has {there}")
        self._columns = list(columns) or list(schema.names)
        for name in self._columns:
            if name not in schema.names:
                raise UsageError(f"--column must be a column of {path}, which has {there}; got {name!r}")
        self._floats = _floats_of(schema.field(self._columns[0]).type)

    @property
    def description(self) -> Mapping[str, object]:
        """Path, size and time of the file, and what is taken of it."""
        seen = self._path.stat()
        return {
            "kind": "table",
            "path": str(self._path.absolute()),
            "size": seen.st_size,
            "mtime_ns": seen.st_mtime_ns,
            "columns": self._columns,
            "paths": self._paths,
        }

    def rows(self) -> Iterator[Row]:
        """One a row."""
        import pyarrow.parquet as pq

        number = 0
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=self._columns, use_threads=False):
                for values in batch.to_pylist():
                    yield Row(number, self._name(values), partial(self._load, values))
                    number += 1

    def _name(self, values: Mapping[str, Any]) -> str | None:
        if len(self._columns) > 1:
            return None
        (value,) = values.values()
        if isinstance(value, dict):
            value = value.get("path")
            return value if isinstance(value, str) else None
        return value if self._paths and isinstance(value, str) else None

    def _load(self, values: Mapping[str, Any]) -> tuple[bytes, str]:
        if len(self._columns) > 1:
            return _encoded({"inputs": dict(values)})
        (value,) = values.values()
        if value is None:
            raise UnreadableRowError(f"column {self._columns[0]} is null")
        if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
            value = value["bytes"] if value["bytes"] is not None else Path(str(value["path"]))
        if isinstance(value, str) and self._paths:
            value = Path(value)
        if isinstance(value, Path):
            return read_file(value)
        if isinstance(value, bytes):
            return value, media_types.ANY
        return _encoded(value if self._floats is None else _as_array(value, self._floats))


def _encoded(value: Any) -> tuple[bytes, str]:
    try:
        return encode_body(value)
    except (TypeError, ValueError) as e:
        raise UnreadableRowError(f"the row cannot be sent: {e}") from e


def _as_array(value: Any, dtype: str) -> Any:
    """Lists of floats as .npy, an eighth of their JSON; those of several lengths stay lists."""
    import numpy as np

    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError):
        return value


def _floats_of(kind: Any) -> str | None:
    """The dtype of a column of lists of floats, at any depth; None of any other column."""
    import pyarrow as pa

    is_list = False
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, is_list = kind.value_type, True
    if not is_list or not pa.types.is_floating(kind):
        return None
    return "float64" if pa.types.is_float64(kind) else "float32"
