"""What was answered stays answered, whenever the process ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from smartbatch.bulk.journal import Journal, folder_of
from smartbatch.bulk.rows import Failure, Row
from smartbatch.errors import UsageError

JOB = {"model": "m", "source": {"kind": "files", "digest": "abc"}}
REFUSED = Failure("wrong_shape", "3 channels", 422)


def row(number: int, digest: str | None = None) -> Row:
    return Row(number, f"{number}.jpg", lambda: (b"", ""), digest)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def rows_file(out: Path) -> Path:
    return folder_of(out) / "rows.jsonl"


def finish(journal: Journal) -> None:
    journal.staged().write_bytes(b"".join(journal.raw_lines()))
    journal.finish()


def test_rows_in_any_order_come_out_in_theirs(out: Path) -> None:
    with Journal(out, JOB) as journal:
        for number in (2, 0, 1):
            journal.add(row(number), b'{"result": %d}' % number)
        assert [line["answer"] for line in journal.lines()] == [{"result": n} for n in range(3)]
        finish(journal)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == [{"row": n, "input": f"{n}.jpg", "answer": {"result": n}} for n in range(3)]
    assert not folder_of(out).exists(), "no row failed"
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]


def test_a_journal_goes_on(out: Path) -> None:
    with Journal(out, JOB) as journal:
        journal.add(row(1), b"[1]")
    with Journal(out, JOB) as journal:
        assert journal.is_done(row(1))
        assert not journal.is_done(row(0))
        assert not journal.is_done(row(7))
        assert (journal.num_done, journal.num_rows) == (1, 2)


@pytest.mark.parametrize("length", range(1, 40, 3))
def test_a_line_cut_short_is_asked_for_again(out: Path, length: int) -> None:
    with Journal(out, JOB) as journal:
        journal.add(row(0), b"[0]")
        whole = rows_file(out).read_bytes()
        journal.add(row(1), b'{"result": [1, 2, 3]}')
    torn = rows_file(out).read_bytes()[: len(whole) + length]
    rows_file(out).write_bytes(torn)
    with Journal(out, JOB) as journal:
        assert (journal.is_done(row(0)), journal.is_done(row(1))) == (True, False)
        journal.add(row(1), b"[1]")
        assert [line["answer"] for line in journal.lines()] == [[0], [1]]


def test_what_a_lost_power_left_is_cut_off(out: Path) -> None:
    with Journal(out, JOB) as journal:
        journal.add(row(0), b"[0]")
    with rows_file(out).open("ab") as file:
        file.write(b"\0" * 50 + b'\n{"row": 2, "input": null, "answer": 1}\n')
    with Journal(out, JOB) as journal:
        assert [line["row"] for line in journal.lines()] == [0]


def test_failures_keep_the_journal_and_the_last_line_of_a_row_counts(out: Path) -> None:
    with Journal(out, JOB) as journal:
        journal.add(row(0), b"[0]")
        journal.add(row(1), REFUSED)
        finish(journal)
    error = {"status": 422, "code": "wrong_shape", "message": "3 channels"}
    assert json.loads(out.read_text().splitlines()[1]) == {"row": 1, "input": "1.jpg", "error": error}
    with Journal(out, JOB) as journal:
        assert journal.failed == {1}
        journal.add(row(1), b"[1]")
        assert journal.failed == frozenset()
        finish(journal)
    assert [json.loads(line)["answer"] for line in out.read_text().splitlines()] == [[0], [1]]
    assert not folder_of(out).exists()


def test_killed_between_the_outputs_name_and_the_journals_end(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with Journal(out, JOB) as journal:
        journal.add(row(0), b"[0]")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                finish(journal)
    assert out.exists()
    with Journal(out, JOB) as journal:
        assert journal.num_done == 1
        finish(journal)
    assert not folder_of(out).exists()


def test_an_output_without_a_journal_is_not_touched(out: Path) -> None:
    out.write_text("mine")
    with pytest.raises(UsageError, match=r"out\.jsonl is there already"):
        Journal(out, JOB)
    assert out.read_text() == "mine"


def test_something_else_is_refused(out: Path) -> None:
    Journal(out, JOB).close()
    with pytest.raises(UsageError, match='model was "m", is "other"') as caught:
        Journal(out, {**JOB, "model": "other"})
    assert "out.jsonl.partial to begin anew" in str(caught.value)


def test_two_at_once_are_refused(out: Path) -> None:
    with Journal(out, JOB), pytest.raises(UsageError, match="another `smartbatch predict` is writing"):
        Journal(out, JOB)


def test_a_pipe_must_give_the_same_lines(out: Path) -> None:
    with Journal(out, JOB) as journal:
        journal.add(row(0, "aa"), b"[0]")
        journal.add(row(1, "bb"), REFUSED)
    with Journal(out, JOB) as journal:
        assert journal.is_done(row(0, "aa"))
        with pytest.raises(UsageError, match="row 1 of the input is not what it was"):
            journal.is_done(row(1, "cc"))
        assert [sorted(json.loads(line)) for line in journal.raw_lines()] == [
            ["answer", "input", "row"],
            ["error", "input", "row"],
        ], "digests are the journal's alone"


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b'{\n  "result": [1.10]\n}\n', {"result": [1.1]}),
        (b"plain words", "plain words"),
        (b"\xff\x00", {"b64": "/wA="}),
        (b'{"result": 0.30000001192092896}', {"result": 0.30000001192092896}),
    ],
    ids=["of several lines", "text", "bytes", "digits"],
)
def test_any_answer_is_one_line(out: Path, content: bytes, answer: Any) -> None:
    with Journal(out, JOB) as journal:
        journal.add(row(0), content)
        journal.add(row(1), b"[1]")
        assert [line["answer"] for line in journal.lines()] == [answer, [1]]


def test_answers_larger_than_a_page(out: Path) -> None:
    large = json.dumps(list(range(50_000))).encode()
    with Journal(out, JOB) as journal:
        journal.add(row(0), large)
        journal.add(row(1), b"[1]")
        assert [line["answer"] for line in journal.lines()] == [list(range(50_000)), [1]]


def test_a_full_disk(small_disk: Path) -> None:
    out = small_disk / "out.jsonl"

    def fill(journal: Journal) -> None:
        for number in range(100):
            journal.add(row(number), b'"%s"' % (b"x" * 4000))

    with Journal(out, JOB) as journal, pytest.raises(OSError, match="No space left"):
        fill(journal)
    with Journal(out, JOB) as journal:
        assert 5 < journal.num_done < 16
        assert [line["row"] for line in journal.lines()] == list(range(journal.num_done))
