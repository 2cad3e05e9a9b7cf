"""The output, made of a journal in which every row is: one file a form, its rows in the order of the input.

Every form has the same columns: `row`, `input`, `answer`, and of a row that failed `error`, with `status`, `code` and
`message`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from smartbatch.bulk.journal import Journal
from smartbatch.errors import UsageError
from smartbatch.installation import need

_COLUMNS = ("row", "input", "answer", "error_status", "error_code", "error_message")
_ROWS_A_GROUP = 4096


def check_output(out: Path) -> None:
    """Refuse an output that cannot be written, before anything is asked.

    Raises:
        UsageError: its name ends in nothing known, its folder is not there, or its form needs an extra.
    """
    if out.suffix.lower() not in OUTPUTS:
        raise UsageError(f"--out must end in {', '.join(OUTPUTS)}, got {str(out)!r}")
    if not out.parent.is_dir():
        raise UsageError(f"--out must be in a folder that is there, got {str(out)!r}")
    if out.suffix.lower() == ".parquet":
        need("bulk", "--out FILE.parquet")


def write_output(journal: Journal, out: Path) -> None:
    """Write the staged file of a journal, in the form that the output's name ends in."""
    OUTPUTS[out.suffix.lower()](journal, journal.staged())


def _write_jsonl(journal: Journal, path: Path) -> None:
    """The journal's lines, each row's last one."""
    with path.open("wb") as file:
        file.writelines(journal.raw_lines())


def _write_csv(journal: Journal, path: Path) -> None:
    """The answer and the error's parts in columns of their own; an answer is JSON."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(map(_flat, journal.lines()))


def _write_parquet(journal: Journal, path: Path) -> None:
    """The same columns, typed; an answer is JSON, for answers of one model may differ in form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"row": pa.int64(), "error_status": pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in _COLUMNS])
    with pq.ParquetWriter(path, schema) as writer:
        for group in _groups(map(_flat, journal.lines())):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    error = line.get("error") or {}
    return {
        "row": line["row"],
        "input": line["input"],
        "answer": json.dumps(line["answer"], ensure_ascii=False) if "answer" in line else None,
        "error_status": error.get("status"),
        "error_code": error.get("code"),
        "error_message": error.get("message"),
    }


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, _ROWS_A_GROUP)):
        yield group


OUTPUTS: dict[str, Callable[[Journal, Path], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
"""By the end of the output's name."""
