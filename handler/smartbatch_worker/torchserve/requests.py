"""TorchServe's batch to rows, and which of its calls are no batches: headers, deadlines, forms."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from smartbatch_worker.contract import headers, media_types
from smartbatch_worker.contract.config import OUTPUTS
from smartbatch_worker.errors import MalformedBody, RowError, UnknownFormat
from smartbatch_worker.flow.answers.outputs import needs_words
from smartbatch_worker.flow.rows import Row
from smartbatch_worker.torchserve import accept, forms
from smartbatch_worker.torchserve.forms import FormField
from smartbatch_worker.torchserve.wire import MAX_FIELDS, TOO_MANY_FIELDS

OPEN_INFERENCE = "v2"
"""As our frontend names the protocol."""
_TIMING = headers.TIMING.lower()
MAX_CLOCK_AHEAD_S = 1.0  # a start further in the future is another clock's, or made up


def read_rows(data: Sequence[Mapping[str, Any]], context: Any) -> list[Row]:
    """TorchServe's batch to rows: same length, same order."""
    now, monotonic_now = time.time(), time.monotonic()
    rows = []
    for index, fields in enumerate(data):
        given = context.get_all_request_header(index)
        row = Row(b"", _lower_case(given))
        row.attempt(_read_protocol, row)
        row.attempt(_read_body, row, forms.fields_of(fields, given))
        row.attempt(_read_deadline, row, now, monotonic_now)
        row.attempt(_read_answers_form, row)
        if _TIMING in row.headers:
            row.attempt(_read_timing, row, now)
        rows.append(row)
    return rows


def is_describe(data: Sequence[Mapping[str, Any]], context: Any) -> bool:
    """Whether this call is `GET /models/<name>?customized=true` and not an inference.

    TorchServe marks it by a header, which any client may send as well. What a client cannot make is a request without
    a body: TorchServe adds one to each, be it empty, unless it took a form apart, and a form has a content type.
    """
    given = context.get_all_request_header(0)
    is_marked = len(data) == 1 and given.get("describe") == "True"
    return is_marked and not data[0] and not any(name.lower() == "content-type" for name in given)


def _read_protocol(row: Row) -> None:
    """What is in the Open Inference Protocol: our frontend says so, or its header for binary tensors does."""
    protocol = row.headers.get(headers.PROTOCOL.lower())
    if protocol not in (None, OPEN_INFERENCE):
        raise MalformedBody(f"{headers.PROTOCOL} must be {OPEN_INFERENCE}; got {protocol[:40]!r}")
    length = row.headers.get(headers.JSON_LENGTH.lower())
    content_type = row.headers.get("content-type", "").lower()
    if length is not None:
        row.read_as_open_inference(f"{media_types.OPEN_INFERENCE}; json={length}")
    elif content_type.startswith(media_types.OPEN_INFERENCE):
        row.read_as_open_inference(content_type)
    elif protocol is not None:
        row.read_as_open_inference(media_types.OPEN_INFERENCE)


def _read_body(row: Row, fields: Sequence[FormField]) -> None:
    """Take the one field that is the body, and its content type where it has one of its own."""
    request_type = row.headers.get("content-type", "").lower()
    if request_type.startswith("application/x-www-form-urlencoded"):
        raise UnknownFormat(
            "the body came as a web form, which is what `curl -d` says of any body: name its own type "
            "(-H 'Content-Type: application/json'), or send a file with `curl -T FILE`"
        )
    if any(field.name == TOO_MANY_FIELDS for field in fields):
        raise MalformedBody(f"a form may have {MAX_FIELDS} fields at most; send the body as it is")
    field = forms.pick(fields, request_type.startswith("multipart/"))
    if field is None:
        return
    if isinstance(field.value, str):
        row.body = field.value.encode()
    elif isinstance(field.value, (bytes, bytearray)):
        row.body = field.value
    else:
        raise RowError("TorchServe read the body before this handler could: set decode_input_request=false")
    if field.content_type and row.asked is None:
        row.headers = {**row.headers, "content-type": field.content_type}


def _lower_case(given: Mapping[str, Any]) -> dict[str, str]:
    # TorchServe adds one entry a body field, a dict with its content type.
    return {name.lower(): value for name, value in given.items() if isinstance(value, str)}


def _read_deadline(row: Row, now: float, monotonic_now: float) -> None:
    budget_ms = _number(row, headers.DEADLINE_MS.lower())
    if budget_ms is None:
        return
    row.deadline = monotonic_now + (_start(row, now) - now) + budget_ms / 1000


def _read_answers_form(row: Row) -> None:
    """What is wanted of the answer, and as what: a client that takes nothing of it costs no forward."""
    output = row.headers.get(headers.OUTPUT.lower())
    if output is not None:
        output = output.lower()
        if output not in OUTPUTS:
            raise MalformedBody(f"{headers.OUTPUT} must be one of {', '.join(OUTPUTS)}; got {output[:40]!r}")
        row.output = output
    wanted = row.headers.get("accept")
    if wanted is not None and row.asked is None:  # that protocol says in the body what it wants
        has_words = output is not None and needs_words(output)
        row.media_type = accept.choose(wanted, accept.ANSWERS[:1] if has_words else accept.ANSWERS)


def _read_timing(row: Row, now: float) -> None:
    wanted = row.headers[_TIMING]
    if wanted.lower() != "on":
        raise MalformedBody(f"{headers.TIMING} must be on; got {wanted[:40]!r}")
    row.waited_s = max(0.0, now - _start(row, now))  # another clock may be ahead


def _start(row: Row, now: float) -> float:
    """When the request was sent, unix seconds; now, where nobody said or nobody can believe it."""
    start = _number(row, headers.START.lower())
    return now if start is None or start > now + MAX_CLOCK_AHEAD_S else start


def _number(row: Row, header: str) -> float | None:
    text = row.headers.get(header)
    if text is None:
        return None
    try:
        value = float(text.strip().removeprefix("t="))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise MalformedBody(f"header {header} must be a number of at least 0; got {text[:40]!r}")
    return value
