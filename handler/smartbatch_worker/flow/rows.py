"""One request of a batch: a row that is either valid or failed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from smartbatch_worker.errors import (
    DeadlinePassed,
    MalformedBody,
    NonFiniteOutput,
    RowError,
    blame_server,
)
from smartbatch_worker.flow.decode import Decoded
from smartbatch_worker.flow.encode import is_finite
from smartbatch_worker.formats import content_encoding

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Row:
    """One request: its body, then its items, then its outputs, or the error it is answered with."""

    body: bytes | bytearray
    headers: Mapping[str, str]
    deadline: float = math.inf  # on the monotonic clock: a step of the machine's time expires nobody
    items: list[torch.Tensor] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    is_image: bool = False
    is_text: bool = False
    num_truncated: int = 0
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
        self.is_text, self.num_truncated = decoded.is_text, decoded.num_truncated
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


def check_deadline(row: Row) -> None:
    """Refuse a row whose caller has stopped waiting, before it costs a forward."""
    if time.monotonic() > row.deadline:
        raise DeadlinePassed("the deadline (X-Request-Deadline-Ms) passed before the forward started")


def inflate(row: Row) -> None:
    """Undo what the client compressed; whoever reads the body then finds no header that says it still is."""
    encoding = row.headers.get("content-encoding")
    if encoding is not None:
        row.body = content_encoding.inflate(row.body, encoding)
        row.headers = {name: value for name, value in row.headers.items() if name != "content-encoding"}
