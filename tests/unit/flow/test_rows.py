"""Requests to rows: headers read, deadlines counted, a row's trouble its own."""

from __future__ import annotations

import gzip
import math
import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import DeadlinePassed
from smartbatch_worker.flow.rows import Row, check_deadline, inflate
from smartbatch_worker.torchserve.forms import FIELDS, FormField
from smartbatch_worker.torchserve.requests import read_rows


class Context:
    """TorchServe's context, as far as rows ask it: the headers of each request."""

    def __init__(self, *headers: dict[str, Any]) -> None:
        self.headers = headers

    def get_all_request_header(self, index: int) -> dict[str, Any]:
        return self.headers[index]


def rows_with(*headers: dict[str, str]) -> list[Row]:
    return read_rows([{"body": b"{}"} for _ in headers], Context(*headers))


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


def test_who_asks_where_the_time_went_learns_how_long_the_request_waited() -> None:
    silent, asked, unstamped, ahead, bad = rows_with(
        {"X-Request-Start": f"t={time.time() - 10:.3f}"},
        {"X-SmartBatch-Timing": "on", "X-Request-Start": f"t={time.time() - 10:.3f}"},
        {"x-smartbatch-timing": "On"},
        {"X-SmartBatch-Timing": "on", "X-Request-Start": f"{time.time() + 3600:.3f}"},
        {"X-SmartBatch-Timing": "yes"},
    )
    assert silent.waited_s is None
    assert asked.waited_s is not None
    assert 9 < asked.waited_s < 100
    assert (unstamped.waited_s, ahead.waited_s) == (0.0, 0.0)
    assert bad.status == 400
    assert "X-SmartBatch-Timing must be on; got 'yes'" in str(bad.error)


RULE = (
    "preprocess_item must give one tensor, or a dict of named inputs where the model has such, or a list of either, "
    "one an item; it gave a "
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": torch.zeros(4)}, "dict, and the model has no named inputs (inputs:)"),
        (None, "NoneType"),
        (b"abc", "bytes"),
        (3.0, "float"),
        (np.zeros((2, 4)), "ndarray that holds a ndarray"),
        ([torch.zeros(4), None], "list that holds a NoneType"),
        (
            (torch.zeros(4), torch.zeros(3, 2)),
            "tuple of shapes [4], [3, 2]: one item of several inputs is a dict",
        ),
    ],
)
def test_what_preprocess_item_may_not_give_is_said(given: object, said: str) -> None:
    (row,) = rows_with({})
    row.attempt(row.take, given, WorkerConfig())
    assert row.error is not None
    assert (row.error.status, row.error.message) == (500, RULE + said)


def test_lists_of_items_are_taken_whatever_their_shapes() -> None:
    (row,) = rows_with({})
    row.take([torch.zeros(4), torch.zeros(2, dtype=torch.int64)], WorkerConfig())
    assert [(item.shape, item.dtype) for item in row.items] == [((4,), torch.float32), ((2,), torch.float32)]
    row.take((torch.zeros(4), torch.zeros(4)), WorkerConfig())
    assert len(row.items) == 2


IMAGE = FormField("file", "image/jpeg", b"\xff\xd8\xff")
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def row_of(fields: list[FormField], headers: dict[str, Any], *, kept_by_name: bool = False) -> Row:
    """As wire hands a request over, or as TorchServe's own code does where wire is not in charge."""
    if len(fields) > 1 and not kept_by_name:
        fields = [FormField(FIELDS, "", fields)]
    data = {field.name: field.value for field in fields}
    types = {field.name: {"content-type": field.content_type} for field in fields}
    (row,) = read_rows([data], Context({**types, **headers}))
    return row


@pytest.mark.parametrize("kept_by_name", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        [IMAGE],
        [FormField("title", "", b"a cat"), IMAGE, FormField("agree", "", b"on")],
        [FormField("data", "", b"1"), FormField("body", "", b"2"), IMAGE],
        [FormField("Host", "image/jpeg", b"\xff\xd8\xff"), FormField("x", "", b"")],
    ],
)
def test_the_one_file_of_a_form_is_the_body(fields: list[FormField], kept_by_name: bool) -> None:
    row = row_of(fields, FORM, kept_by_name=kept_by_name)
    assert row.error is None
    assert row.body == b"\xff\xd8\xff"
    assert row.headers["content-type"] == "image/jpeg"


def test_one_text_field_alone_is_the_body() -> None:
    assert row_of([FormField("anything", "", b'{"data": [1]}')], FORM).body == b'{"data": [1]}'


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([IMAGE, IMAGE], "one file; found 2: 'file', 'file'"),
        ([IMAGE, FormField("other", "text/csv", b"1"), FormField("x", "", b"")], "one file; found 2: 'file', 'other'"),
        ([FormField("a", "", b"1"), FormField("b", "", b"2")], "found none among its 2 fields: 'a', 'b'"),
        ([FormField("n", "image/png", b"")] * 100, "found 100: .*…"),
        ([], "found no fields at all"),
    ],
)
def test_other_forms_say_what_was_found(fields: list[FormField], said: str) -> None:
    row = row_of(fields, FORM)
    assert row.status == 400
    assert re.search(said, str(row.error))


def test_the_body_beside_a_query_and_grpcs_fields_are_found() -> None:
    body = FormField("body", "application/json", b"[1]")
    assert row_of([FormField("x", "", b"1"), body], {}).body == b"[1]"
    assert row_of([FormField("body", "", b"query"), body], {}).body == b"[1]"
    assert row_of([FormField("data", "", b"[1]"), FormField("x", "", b"")], {}).body == b"[1]"
    assert row_of([FormField("x", "", b"1"), FormField("y", "", b"")], {}).status == 400


def test_a_field_has_no_say_in_the_requests_headers() -> None:
    row = row_of([FormField("Accept", "image/jpeg", b"\xff\xd8\xff")], {**FORM, "X-Request-Deadline-Ms": "5000"})
    assert "accept" not in row.headers
    assert math.isfinite(row.deadline)


def test_empty_is_said_of_empty_bodies_only() -> None:
    assert row_of([FormField("body", "", b"")], {}).body == b""
    parsed = row_of([FormField("body", "application/json", {"data": [1]})], {})
    assert parsed.status == 500
    assert "decode_input_request=false" in str(parsed.error)


def inflated(fields: list[FormField], headers: dict[str, Any]) -> Row:
    row = row_of(fields, headers)
    row.attempt(inflate, row)
    return row


def test_gzip_is_inflated_for_every_format_and_method() -> None:
    body = FormField("body", "application/json", gzip.compress(b'{"data": [1]}'))
    for name in ("Content-Encoding", "content-encoding"):
        row = inflated([body], {name: "gzip"})
        assert row.body == b'{"data": [1]}'
        assert "content-encoding" not in row.headers  # a handler of the user's would inflate it again
    assert inflated([body], {"Content-Encoding": "br"}).status == 415
    assert inflated([FormField("body", "", b"x")], {"Content-Encoding": "gzip"}).status == 400
