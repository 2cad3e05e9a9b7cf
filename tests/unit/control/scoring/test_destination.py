"""Where answers appear: each part whole, once, under its name; the manifest last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from smartbatch.bulk.rows import Failure, Row
from smartbatch.errors import UsageError
from smartbatch.scoring.destination import COLUMNS, ERRORS, MANIFEST, Destination
from smartbatch.scoring.places import STAGED, place_of

JOB = {"version": 1, "model": "m.mar 1"}
LATE = Failure("deadline_passed", "two\nlines", 504)
GONE = Failure("unreadable", "gone")


def row(number: int) -> Row:
    return Row(number, f"{number}.npy", lambda: (b"", ""))


@pytest.fixture
def out(tmp_path: Path) -> Destination:
    found = Destination(place_of(str(tmp_path / "out")))
    found.begin(JOB)
    return found


def folder(out: Destination) -> Path:
    return Path(out.place.path)


def test_a_part_is_its_rows_and_says_what_failed(out: Destination) -> None:
    done = out.write(3, [(row(0), b'{"result": [1.50]}'), (row(1), LATE), (row(2), GONE)])
    table = pq.read_table(folder(out) / "part-000003.parquet")
    assert tuple(table.column_names) == COLUMNS
    first, second, third = table.to_pylist()
    assert (first["part"], first["row"], first["input"]) == (3, 0, "0.npy")
    assert (first["answer"], first["error_code"]) == ('{"result": [1.50]}', None), "as the handler wrote it"
    assert (second["answer"], second["error_status"], second["error_message"]) == (None, 504, "two\nlines")
    assert (third["error_status"], third["error_code"]) == (None, "unreadable")
    assert (done.rows, done.failures) == (3, {"504 deadline_passed": 1, "unreadable": 1})
    assert out.done() == {3: done}


def test_written_twice_it_is_there_once(out: Destination) -> None:
    for _ in range(2):
        out.write(0, [(row(0), b"1")])
    assert out.write(0, [(row(0), b"1")]).rows == 1
    assert [path.name for path in folder(out).glob("part-*")] == ["part-000000.parquet"]
    assert pq.read_table(folder(out) / "part-000000.parquet")["row"].to_pylist() == [0]


def test_a_part_that_cannot_be_read_is_not_done(out: Destination) -> None:
    out.write(0, [(row(0), b"1")])
    (folder(out) / "part-000001.parquet").write_bytes(b"")
    (folder(out) / "part-000002.parquet").write_bytes((folder(out) / "part-000000.parquet").read_bytes()[:-9])
    assert list(out.done()) == [0]


def test_the_end(out: Destination) -> None:
    parts = [out.write(0, [(row(0), b"1"), (row(1), LATE)]), out.write(1, [(row(0), b"2")])]
    out.finish(parts, JOB)
    manifest = json.loads((folder(out) / MANIFEST).read_text())
    assert (manifest["rows"], manifest["failed"]) == (3, 1)
    assert manifest["parts"][0] == {"name": "part-000000.parquet", "rows": 2, "failed": 1}
    (line,) = (folder(out) / ERRORS).read_text().splitlines()
    assert json.loads(line) == {
        "part": 0,
        "row": 1,
        "input": "1.npy",
        "error": {"status": 504, "code": "deadline_passed", "message": "two\nlines"},
    }
    assert pq.read_table(folder(out))["answer"].to_pylist() == ["1", None, "2"], "the folder is one data set"

    out.reopen([parts[0]])
    assert not (folder(out) / MANIFEST).exists()
    assert list(out.done()) == [1]
    out.finish([out.write(0, [(row(0), b"1"), (row(1), b"3")]), parts[1]], JOB)
    assert not (folder(out) / ERRORS).exists()


def test_another_job_is_refused(out: Destination, tmp_path: Path) -> None:
    out.begin(dict(JOB))
    with pytest.raises(UsageError, match=r'begun for something else \(model was "m\.mar 1", is "m\.mar 2"\)'):
        out.begin({**JOB, "model": "m.mar 2"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"must be an empty folder, .* holds thesis\.txt"):
        Destination(place_of(str(tmp_path / "mine"))).begin(JOB)
    with pytest.raises(UsageError, match=r"--out must be a folder, and .*thesis\.txt is a file"):
        Destination(place_of(str(tmp_path / "mine" / "thesis.txt"))).begin(JOB)


def test_on_another_file_system() -> None:
    out = Destination(place_of("memory://answers"))
    out.begin(JOB)
    done = out.write(0, [(row(0), b"1"), (row(1), GONE)])
    assert out.done() == {0: done}
    out.finish([done], JOB)
    assert json.loads(out.place.child(MANIFEST).read())["failed"] == 1


KILLED = """
import sys
from smartbatch.scoring.places import place_of

class Slow:
    pieces = 0
    def read(self, size):
        Slow.pieces += 1
        if Slow.pieces == 3:
            print("half", flush=True)
            sys.stdin.read()
        return b"x" * size

place_of(sys.argv[1]).write(Slow())
"""


def test_killed_while_it_writes_the_file_is_not_there(tmp_path: Path) -> None:
    place = place_of(str(tmp_path / "file"))
    command = [sys.executable, "-c", KILLED, place.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert not place.is_file()
    assert list((tmp_path / STAGED).iterdir())


def test_deaths_at_a_part_are_counted_until_one_lives(out: Destination) -> None:
    assert [out.note_attempt(3) for _ in range(3)] == [0, 1, 2]
    assert out.note_attempt(4) == 0
    out.end_attempts(3)
    assert [out.note_attempt(3), out.note_attempt(4)] == [0, 1]
    (folder(out) / STAGED).mkdir(exist_ok=True)
    out.begin(dict(JOB))
    assert [path.name for path in folder(out).iterdir()] == ["_job.json"], "a new run counts anew"
