"""One request of a batch, from TorchServe's dictionaries to a row that is either valid or failed."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.errors import (
    DeadlinePassed,
    Draining,
    MalformedBody,
    NonFiniteOutput,
    RowError,
    UnknownFormat,
    blame_server,
)
from smartbatch_worker.flow.decode import Decoded
from smartbatch_worker.flow.encode import is_finite
from smartbatch_worker.formats import content_encoding
from smartbatch_worker.torchserve import forms
from smartbatch_worker.torchserve.forms import FormField
from smartbatch_worker.torchserve.wire import MAX_FIELDS, TOO_MANY_FIELDS

logger = logging.getLogger(__name__)

MAX_CLOCK_AHEAD_S = 1.0  # an X-Request-Start further in the future is another clock's, or made up


@dataclass(slots=True)
class Row:
    """One request: its body, then its items, then its outputs, or the error it is answered with."""

    body: bytes | bytearray
    headers: Mapping[str, str]
    deadline: float = math.inf  # on the monotonic clock: a step of the machine's time expires nobody
    items: list[torch.Tensor] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    is_image: bool = False
    has_batch_dim: bool = False
    error: RowError | None = None

    @property
    def status(self) -> int:
        """The HTTP status of this row's answer."""
        return 200 if self.error is None else self.error.status

    def attempt(self, step: Callable[..., None], *args: Any) -> None:
        """Run one step for this row; its failure becomes this row's error and nobody else's."""
        if self.error is not None:
            return
        try:
            step(*args)
        except RowError as error:
            self.error = error
        except ValueError as error:  # what a user's preprocess_item raises for a bad body
            self.error = MalformedBody(str(error))
        except Exception as error:
            logger.exception("a request failed")
            self.error = blame_server(error)

    def take(self, decoded: Decoded | torch.Tensor | Sequence[torch.Tensor]) -> None:
        """Accept what preprocess_item gave.

        Raises:
            RowError: it is no tensor and no list of them; the message says what it is.
        """
        if isinstance(decoded, torch.Tensor):
            decoded = Decoded([decoded], False, False)
        elif not isinstance(decoded, Decoded):
            decoded = Decoded(_items_of(decoded), False, True)
        self.items = [
            item if item.dtype in (torch.uint8, torch.float32) else item.to(torch.float32) for item in decoded.items
        ]
        self.outputs = [None] * len(self.items)
        self.is_image, self.has_batch_dim = decoded.is_image, decoded.has_batch_dim
        self.body = b""  # a batch of 3 MB bodies need not be kept beside its tensors

    def put(self, position: int, answer: Any, require_finite: bool) -> None:
        """Store one item's output, or the error that fails its row."""
        if isinstance(answer, RowError):
            self.error = self.error or answer
        elif require_finite and not is_finite(answer):
            self.error = self.error or NonFiniteOutput("the model answered NaN or infinity for this request")
        else:
            self.outputs[position] = answer


def _items_of(given: Any) -> list[torch.Tensor]:
    rule = "preprocess_item must give one tensor, or a list of tensors, one an item"
    if isinstance(given, (Mapping, str, bytes, bytearray)) or not isinstance(given, Iterable):
        raise RowError(f"{rule}; it gave a {type(given).__name__}")
    items = list(given)
    for item in items:
        if not isinstance(item, torch.Tensor):
            raise RowError(f"{rule}; it gave a {type(given).__name__} that holds a {type(item).__name__}")
    # A list may: its items run in groups of one shape. A tuple that does is meant to be one item of several inputs.
    if isinstance(given, tuple) and len({item.shape for item in items}) > 1:
        shapes = ", ".join(str(list(item.shape)) for item in items)
        raise RowError(f"{rule}; it gave a tuple of shapes {shapes}: one item of several inputs is not taken")
    return items


def read_rows(data: Sequence[Mapping[str, Any]], context: Any, env: Mapping[str, str]) -> list[Row]:
    """TorchServe's batch to rows: same length, same order."""
    draining_since = _draining_since(env)
    now, monotonic_now = time.time(), time.monotonic()
    rows = []
    for index, fields in enumerate(data):
        headers = context.get_all_request_header(index)
        row = Row(b"", _lower_case(headers))
        row.attempt(_read_body, row, forms.fields_of(fields, headers))
        row.attempt(_read_deadline, row, now, monotonic_now)
        if draining_since is not None and monotonic_now >= draining_since:
            row.error = Draining("the server is stopping; retry elsewhere")
        rows.append(row)
    return rows


def is_describe(data: Sequence[Mapping[str, Any]], context: Any) -> bool:
    """Whether this call is `GET /models/<name>?customized=true` and not an inference.

    TorchServe marks it by a header, which any client may send as well. What a client cannot make is a request without
    a body: TorchServe adds one to each, be it empty, unless it took a form apart, and a form has a content type.
    """
    headers = context.get_all_request_header(0)
    is_marked = len(data) == 1 and headers.get("describe") == "True"
    return is_marked and not data[0] and not any(name.lower() == "content-type" for name in headers)


def check_deadline(row: Row) -> None:
    """Refuse a row whose caller has stopped waiting, before it costs a forward."""
    if time.monotonic() > row.deadline:
        raise DeadlinePassed("the deadline (X-Request-Deadline-Ms) passed before the forward started")


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
    if field.content_type:
        row.headers = {**row.headers, "content-type": field.content_type}


def inflate(row: Row) -> None:
    """Undo what the client compressed; whoever reads the body then finds no header that says it still is."""
    encoding = row.headers.get("content-encoding")
    if encoding is not None:
        row.body = content_encoding.inflate(row.body, encoding)
        row.headers = {name: value for name, value in row.headers.items() if name != "content-encoding"}


def _lower_case(headers: Mapping[str, Any]) -> dict[str, str]:
    # TorchServe adds one entry a body field, a dict with its content type.
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _read_deadline(row: Row, now: float, monotonic_now: float) -> None:
    budget_ms = _number(row, "x-request-deadline-ms")
    if budget_ms is None:
        return
    start = _number(row, "x-request-start")
    if start is None or start > now + MAX_CLOCK_AHEAD_S:
        start = now
    row.deadline = monotonic_now + (start - now) + budget_ms / 1000


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


def _draining_since(env: Mapping[str, str]) -> float | None:
    """When to begin refusing newcomers: the monotonic time in SMARTBATCH_DRAIN_FILE, which the control plane writes."""
    path = env.get("SMARTBATCH_DRAIN_FILE")
    if path is None or not os.path.exists(path):  # noqa: PTH110  (once a batch: no Path object needed)
        return None
    try:
        return float(Path(path).read_text().strip() or 0)
    except (OSError, ValueError):
        return None
