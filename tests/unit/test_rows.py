"""Requests to rows: headers read, deadlines counted, a row's trouble its own."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from smartbatch_worker.errors import DeadlinePassed
from smartbatch_worker.rows import Row, check_deadline, read_rows


class Context:
    """TorchServe's context, as far as rows ask it: the headers of each request."""

    def __init__(self, *headers: dict[str, str]) -> None:
        self.headers = headers

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return self.headers[index]


def rows_with(*headers: dict[str, str], drain_file: Path | None = None) -> list[Row]:
    env = {} if drain_file is None else {"SMARTBATCH_DRAIN_FILE": str(drain_file)}
    return read_rows([{"body": b"{}"} for _ in headers], Context(*headers), env)


def is_late(row: Row) -> bool:
    try:
        check_deadline(row)
    except DeadlinePassed:
        return True
    return False


def test_deadlines_count_from_arrival_or_from_the_proxys_stamp() -> None:
    ago = f"t={time.time() - 10:.3f}"
    rows = rows_with(
        {},
        {"X-Request-Deadline-Ms": "5000"},
        {"X-Request-Deadline-Ms": "5000", "X-Request-Start": ago},
        {"X-Request-Deadline-Ms": "60000", "X-Request-Start": ago},
        {"X-Request-Deadline-Ms": "60000", "X-Request-Start": f"{time.time() + 3600:.3f}"},  # another clock's
    )
    assert [is_late(row) for row in rows] == [False, False, True, False, False]
    assert rows[4].deadline - time.monotonic() <= 60


def test_setting_the_machines_clock_expires_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = rows_with({"X-Request-Deadline-Ms": "5000"})
    an_hour_ahead = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_ahead)
    assert not is_late(row)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", ""])
def test_a_deadline_that_is_none_fails_its_row_alone(value: str) -> None:
    bad, good = rows_with({"X-Request-Deadline-Ms": value}, {})
    assert bad.status == 400
    assert "x-request-deadline-ms must be a number" in str(bad.error)
    assert good.status == 200


def test_newcomers_are_refused_once_the_drain_file_says_so(tmp_path: Path) -> None:
    drain_file = tmp_path / "drain"
    assert rows_with({}, drain_file=drain_file)[0].status == 200
    drain_file.write_text(f"{time.time() + 60}")
    assert rows_with({}, drain_file=drain_file)[0].status == 200
    drain_file.write_text(f"{time.time() - 1}")
    assert rows_with({}, drain_file=drain_file)[0].status == 503


RULE = "preprocess_item must give one tensor, or a list of tensors, one an item; it gave a "


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": torch.zeros(4)}, "dict"),
        (None, "NoneType"),
        (b"abc", "bytes"),
        (3.0, "float"),
        (np.zeros((2, 4)), "ndarray that holds a ndarray"),
        ([torch.zeros(4), None], "list that holds a NoneType"),
        (
            (torch.zeros(4), torch.zeros(3, 2)),
            "tuple of shapes [4], [3, 2]: one item of several inputs is not taken",
        ),
    ],
)
def test_what_preprocess_item_may_not_give_is_said(given: object, said: str) -> None:
    (row,) = rows_with({})
    row.attempt(row.take, given)
    assert row.error is not None
    assert (row.error.status, row.error.message) == (500, RULE + said)


def test_lists_of_items_are_taken_whatever_their_shapes() -> None:
    (row,) = rows_with({})
    row.take([torch.zeros(4), torch.zeros(2, dtype=torch.int64)])
    assert [(item.shape, item.dtype) for item in row.items] == [((4,), torch.float32), ((2,), torch.float32)]
    row.take((torch.zeros(4), torch.zeros(4)))
    assert len(row.items) == 2
