"""Rows are read while others are answered: in order, no more of them than two batches ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from smartbatch.bulk.rows import Row, UnreadableRowError
from smartbatch.scoring.actor import ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "smartbatch-score-reader"]


def rows(count: int, taken: list[int] | None = None) -> Iterator[Row]:
    for number in range(count):
        if taken is not None:
            taken.append(number)
        yield Row(number, None, lambda number=number: (b"%d" % number, ""))  # type: ignore[misc]


def test_batches_in_order() -> None:
    batches = [[loaded.body for loaded in batch] for batch in ahead(rows(7), 3)]
    assert batches == [[b"0", b"1", b"2"], [b"3", b"4", b"5"], [b"6"]]
    assert list(ahead(rows(0), 3)) == []
    assert not readers()


def test_a_row_that_cannot_be_read_is_its_failure() -> None:
    def missing() -> tuple[bytes, str]:
        raise UnreadableRowError("gone")

    ((first, second),) = ahead(iter([Row(0, None, missing), Row(1, None, lambda: (b"1", ""))]), 8)
    assert first.failure is not None
    assert (first.failure.code, first.failure.message, second.body) == ("unreadable", "gone", b"1")


def test_what_reading_raises_is_raised_after_what_was_read() -> None:
    def broken() -> Iterator[Row]:
        yield from rows(4)
        raise OSError("the disk is gone")

    batches = ahead(broken(), 4)
    assert len(next(batches)) == 4
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not readers()


def test_whoever_stops_early_leaves_no_thread_and_no_more_is_read() -> None:
    taken: list[int] = []
    batches = ahead(rows(1000, taken), 10)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not readers()
    assert len(taken) <= 50
