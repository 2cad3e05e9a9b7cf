"""What the columns of a table's row become: a body, and the name of the file it is, if it is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smartbatch.bulk.rows import UnreadableRowError
from smartbatch.client import encode_body


class Columns:
    """One column: binary is the body; text is a text, or with `paths` a file's path; lists are numbers; a struct of
    `bytes` and `path` is a picture as Hugging Face's data sets have it. Several columns: named inputs, as JSON.

    Args:
        names: the columns.
        kind: the first one's type, of pyarrow.
        paths: texts are paths of files.
        read_file: a file's bytes and content type, by its path; raises UnreadableRowError.
    """

    def __init__(
        self, names: Sequence[str], kind: Any, *, paths: bool, read_file: Callable[[str], tuple[bytes, str]]
    ) -> None:
        self._names, self._paths, self._read_file = names, paths, read_file
        self._floats = _floats_of(kind)

    def name(self, values: Mapping[str, Any]) -> str | None:
        """Of the file that a row is; None where it is none."""
        if len(self._names) > 1:
            return None
        (value,) = values.values()
        if isinstance(value, dict):
            value = value.get("path")
            return value if isinstance(value, str) else None
        return value if self._paths and isinstance(value, str) else None

    def load(self, values: Mapping[str, Any]) -> tuple[bytes, str]:
        """A row's body, and what that is.

        Raises:
            UnreadableRowError: there is none.
        """
        if len(self._names) > 1:
            return _encoded({"inputs": dict(values)})
        (value,) = values.values()
        if value is None:
            raise UnreadableRowError(f"column {self._names[0]} is null")
        is_path = self._paths
        if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
            is_path = value["bytes"] is None
            value = str(value["path"]) if is_path else value["bytes"]
        if isinstance(value, str) and is_path:
            return self._read_file(value)
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
