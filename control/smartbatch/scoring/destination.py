"""Where the answers appear: a folder of parts, with what was asked before them, and a manifest after them.

A part's file takes its name in one step, so a part is done if and only if it is there; whoever writes it a second time
puts the same rows in its place. The manifest is there once all parts are.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from smartbatch.bulk.journal import changes
from smartbatch.bulk.rows import Failure, Row
from smartbatch.errors import UsageError
from smartbatch.scoring.parts import Done, name_of
from smartbatch.scoring.places import STAGED, Place

JOB = "_job.json"
MANIFEST = "_manifest.json"
ERRORS = "_errors.jsonl"
ATTEMPTS = "_attempts"
MAX_DEATHS = 3
"""Of processes at one part, before it is left: a row that kills its process must not be tried for ever."""
COLUMNS = ("part", "row", "input", "answer", "error_status", "error_code", "error_message")
_PART = re.compile(r"part-(\d{6,})\.parquet")
_FAILURES = b"smartbatch.failures"
"""In a part's footer: its failures, so that they are known without its rows."""
_READ_AT_ONCE = 16


class Destination:
    """The folder of one output."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def begin(self, job: Mapping[str, Any]) -> None:
        """Take the folder for what is asked, or go on with it: what killed processes left is removed.

        Raises:
            UsageError: it was begun for something else, or holds what is none of ours.
            OSError: it cannot be made, read or written.
        """
        if self.place.is_file():
            raise UsageError(f"--out must be a folder, and {self.place.uri} is a file")
        self.place.make_folder()
        path = self.place.child(JOB)
        if path.is_file():
            before = json.loads(path.read())
            if before != job:
                raise UsageError(
                    f"{self.place.uri} was begun for something else ({changes(before, job)}): finish it as it was "
                    "begun, name another --out, or remove it to begin anew"
                )
            self._remove_scratch()
            return
        others = [one.name for one in self.place.files(below=False)]
        if others:
            raise UsageError(
                f"--out must be an empty folder, or one that `smartbatch score` began; {self.place.uri} holds "
                f"{others[0]}"
            )
        path.write(_json(job))

    def done(self) -> dict[int, Done]:
        """The parts that are there; one whose file cannot be read, as after a loss of power, is not."""
        names = [one.name for one in self.place.files(below=False)]
        numbers = [int(match[1]) for name in names if (match := _PART.fullmatch(name))]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            return {done.number: done for done in pool.map(self.look_at, numbers) if done is not None}

    def look_at(self, number: int) -> Done | None:
        """A part, if it is there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = self.place.child(name_of(number))
        try:
            with place.open() as stream, pq.ParquetFile(stream) as file:
                told = file.metadata.metadata or {}
                return Done(number=number, rows=file.metadata.num_rows, failures=json.loads(told[_FAILURES]))
        except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError):
            return None

    def note_attempt(self, number: int) -> int:
        """Note that a process begins a part; `end_attempts` must follow.

        Returns:
            How many have died of it, or with it, before.
        """
        attempts = self._attempts(number)
        before = len(attempts.files())
        attempts.child(uuid.uuid4().hex).touch()
        return before

    def end_attempts(self, number: int) -> None:
        """Note that a process is done with a part, and lives."""
        self._attempts(number).remove_folder()

    def write(self, number: int, answers: Sequence[tuple[Row, bytes | Failure]]) -> Done:
        """Write a part.

        Args:
            number: of it.
            answers: of its rows, in order.

        Raises:
            OSError: it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"part": pa.int32(), "row": pa.int64(), "error_status": pa.int32()}
        schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
        failures = Counter(code_of(outcome) for _, outcome in answers if isinstance(outcome, Failure))
        metadata = {_FAILURES: json.dumps(failures).encode()}
        table = pa.Table.from_pylist([_flat(number, *one) for one in answers], schema.with_metadata(metadata))
        file = io.BytesIO()
        pq.write_table(table, file)
        file.seek(0)
        self.place.child(name_of(number)).write(file)
        return Done(number=number, rows=len(answers), failures=dict(failures))

    def reopen(self, parts: Sequence[Done]) -> None:
        """Have these parts done again."""
        self.place.child(MANIFEST).remove()
        for done in parts:
            self.place.child(name_of(done.number)).remove()

    def finish(self, parts: Sequence[Done], job: Mapping[str, Any]) -> None:
        """Write the failed rows, and last of all the manifest.

        Args:
            parts: all of them, in order.
            job: what was asked.

        Raises:
            OSError: that cannot be read or written.
        """
        errors = self.place.child(ERRORS)
        failed = [done.number for done in parts if done.failed]
        if failed:
            with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
                errors.write(b"".join(pool.map(self._failed_lines, failed)))
        else:
            errors.remove()
        manifest = {
            "version": job["version"],
            "rows": sum(done.rows for done in parts),
            "failed": sum(done.failed for done in parts),
            "parts": [{"name": name_of(d.number), "rows": d.rows, "failed": d.failed} for d in parts],
        }
        self.place.child(MANIFEST).write(_json(manifest))
        self._remove_scratch()

    def _attempts(self, number: int) -> Place:
        return self.place.child(ATTEMPTS).child(name_of(number))

    def _remove_scratch(self) -> None:
        for name in (STAGED, ATTEMPTS):
            self.place.child(name).remove_folder()

    def _failed_lines(self, number: int) -> bytes:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with self.place.child(name_of(number)).open() as stream:
            rows = pq.read_table(stream, filters=pc.field("error_code").is_valid()).to_pylist()
        return b"".join(json.dumps(_nested(row), ensure_ascii=False).encode() + b"\n" for row in rows)


def code_of(failure: Failure) -> str:
    """Status and code, as they are counted."""
    return f"{failure.status} {failure.code}" if failure.status else failure.code


def _flat(part: int, row: Row, outcome: bytes | Failure) -> dict[str, Any]:
    head = {"part": part, "row": row.number, "input": row.name}
    if isinstance(outcome, bytes):
        return {**head, "answer": outcome.decode()}
    return {
        **head,
        "error_status": outcome.status,
        "error_code": outcome.code,
        "error_message": outcome.message,
    }


def _nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """A failed row as `smartbatch predict` writes one in lines of JSON."""
    error = {name: row[f"error_{name}"] for name in ("status", "code", "message")}
    return {"part": row["part"], "row": row["row"], "input": row["input"], "error": error}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
