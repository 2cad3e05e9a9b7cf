"""The three forms of an output."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from smartbatch.bulk.journal import Journal
from smartbatch.bulk.outputs import OUTPUTS, check_output, write_output
from smartbatch.bulk.rows import Failure, Row
from smartbatch.errors import UsageError

ANSWER = {"result": [{"label": "Löwe, groß", "index": 1, "score": 0.5}]}
WANTED = [
    {"row": 0, "input": 'a, "b".jpg', "answer": ANSWER},
    {"row": 1, "input": None, "error": {"status": 422, "code": "wrong_shape", "message": "two\nlines"}},
    {"row": 2, "input": "c.jpg", "error": {"status": None, "code": "unreadable", "message": "gone"}},
]


def written(out: Path) -> Path:
    with Journal(out, {}) as journal:
        journal.add(Row(2, "c.jpg", lambda: (b"", "")), Failure("unreadable", "gone"))
        journal.add(Row(0, 'a, "b".jpg', lambda: (b"", "")), json.dumps(ANSWER).encode())
        journal.add(Row(1, None, lambda: (b"", "")), Failure("wrong_shape", "two\nlines", 422))
        write_output(journal, out)
        journal.finish()
    return out


def test_jsonl(tmp_path: Path) -> None:
    lines = written(tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == WANTED


def test_csv(tmp_path: Path) -> None:
    with written(tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert (first["row"], first["input"], first["error_status"]) == ("0", 'a, "b".jpg', "")
    assert json.loads(first["answer"]) == ANSWER
    assert (second["input"], second["answer"], second["error_status"]) == ("", "", "422")
    assert (second["error_message"], third["error_code"]) == ("two\nlines", "unreadable")


def test_parquet(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "out.PARQUET"))
    assert [str(field.type) for field in table.schema] == ["int64", "string", "string", "int32", "string", "string"]
    first, second, third = table.to_pylist()
    assert (first["row"], json.loads(first["answer"]), first["error_code"]) == (0, ANSWER, None)
    assert (second["answer"], second["error_status"], third["error_status"]) == (None, 422, None)


def test_parquet_of_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartbatch.bulk.outputs._ROWS_A_GROUP", 3)
    out = tmp_path / "out.parquet"
    with Journal(out, {}) as journal:
        for number in range(10):
            journal.add(Row(number, None, lambda: (b"", "")), b"[%d]" % number)
        write_output(journal, out)
        journal.finish()
    assert pq.read_table(out)["answer"].to_pylist() == [f"[{n}]" for n in range(10)]


def test_what_is_refused_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--out must end in \.jsonl, \.csv, \.parquet, got"):
        check_output(tmp_path / "out.txt")
    with pytest.raises(UsageError, match="--out must be in a folder that is there"):
        check_output(tmp_path / "nowhere" / "out.csv")
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else there(name))
    with pytest.raises(UsageError, match=r"--out FILE\.parquet needs pyarrow: pip install 'smartbatch\[bulk\]'"):
        check_output(tmp_path / "out.parquet")
    for suffix in set(OUTPUTS) - {".parquet"}:
        check_output(tmp_path / f"out{suffix}")
