"""One request of a batch: a row that is either valid or failed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import describe_inputs
from smartbatch_worker.errors import (
    DeadlinePassed,
    MalformedBody,
    NonFiniteOutput,
    RowError,
    blame_server,
)
from smartbatch_worker.flow import inputs
from smartbatch_worker.flow.decode import Decoded
from smartbatch_worker.flow.encode import is_finite
from smartbatch_worker.flow.inputs import Inputs
from smartbatch_worker.formats import content_encoding
from smartbatch_worker.formats.open_inference.asked import Asked

logger = logging.getLogger(__name__)

_RULE = (
    "preprocess_item must give one tensor, or a dict of named inputs where the model has such, or a list of either, "
    "one an item"
)


@dataclass(slots=True)
class Row:
    """One request: its body, then its items, then its outputs, or the error it is answered with."""

    body: bytes | bytearray
    headers: Mapping[str, str]
    deadline: float = math.inf  # on the monotonic clock: a step of the machine's time expires nobody
    items: Sequence[Inputs] = ()
    outputs: list[Any] = field(default_factory=list)
    is_image: bool = False
    is_text: bool = False
    num_truncated: int = 0
    has_batch_dim: bool = False
    is_instances: bool = False
    media_type: str = media_types.JSON
    """What the answer shall be."""
    asked: Asked | None = None
    """What it shall have, if it is to be in the Open Inference Protocol."""
    json_length: int | None = None
    """Bytes of JSON in such an answer, where binary tensors follow."""
    output: str | None = None
    """What of the model's answer shall be in it, one of `config.OUTPUTS`; None: what the configuration says."""
    waited_s: float | None = None
    """From its start until a worker had its batch; None: its client does not ask where the time went."""
    forward_size: int = 0
    """Items of the largest forward that answered some of its own; 0: none did."""
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

    def read_as_open_inference(self, content_type: str) -> None:
        """Take the body for a request of that protocol, of this type; errors are answered in it from now on."""
        self.asked = Asked()
        self.headers = {**self.headers, "content-type": content_type}

    def take(self, given: Any, config: WorkerConfig) -> None:
        """Accept what preprocess_item gave: what `decode` gives, or an item's inputs, or several items'.

        Raises:
            RowError: it is nothing of that, and the message says what it is; or the model does not take such inputs.
        """
        decoded = given if isinstance(given, Decoded) else _decoded(given, config)
        self.items = decoded.items if config.inputs is not None else [_as_taken(item) for item in decoded.items]
        self.outputs = [None] * len(self.items)
        self.is_image, self.has_batch_dim = decoded.is_image, decoded.has_batch_dim
        self.is_instances = decoded.is_instances
        self.is_text, self.num_truncated = decoded.is_text, decoded.num_truncated
        self.asked = decoded.asked or self.asked
        self.body = b""  # a batch of 3 MB bodies need not be kept beside its tensors

    def ran_among(self, count: int) -> None:
        """Note that an item of this row was answered by a forward of `count`."""
        self.forward_size = max(self.forward_size, count)

    def put(self, position: int, answer: Any, require_finite: bool) -> None:
        """Store one item's output, or the error that fails its row."""
        if isinstance(answer, RowError):
            self.error = self.error or answer
        elif require_finite and not is_finite(answer):
            self.error = self.error or NonFiniteOutput("the model answered NaN or infinity for this request")
        else:
            self.outputs[position] = answer


def _decoded(given: Any, config: WorkerConfig) -> Decoded:
    """What a user's preprocess_item gave, checked."""
    has_several = not isinstance(given, (torch.Tensor, Mapping))
    if config.inputs is not None:
        items: list[Any] = _several(given) if has_several else [given]
        sole = config.inputs[0].name if len(config.inputs) == 1 else None
        named = [{sole: item} if sole and isinstance(item, torch.Tensor) else item for item in items]
        for item in named:
            if not isinstance(item, Mapping):
                raise RowError(
                    f"{_RULE}; the model takes {describe_inputs(config.inputs)}, and it gave a {type(item).__name__}"
                )
        return Decoded([inputs.checked(item, config) for item in named], False, has_several)
    if isinstance(given, Mapping):
        raise RowError(f"{_RULE}; it gave a {type(given).__name__}, and the model has no named inputs (inputs:)")
    items = _several(given) if has_several else [given]
    for item in items:
        if not isinstance(item, torch.Tensor):
            raise RowError(f"{_RULE}; it gave a {type(given).__name__} that holds a {type(item).__name__}")
    # A list may: its items run in groups of one shape. A tuple that does is meant to be one item of several inputs.
    if isinstance(given, tuple) and len({item.shape for item in items}) > 1:
        shapes = ", ".join(str(list(item.shape)) for item in items)
        raise RowError(f"{_RULE}; it gave a tuple of shapes {shapes}: one item of several inputs is a dict")
    return Decoded(items, False, has_several)


def _as_taken(item: Any) -> torch.Tensor:
    """uint8, which may be pixels, stays."""
    taken: torch.Tensor = item if item.dtype in (torch.uint8, torch.float32) else item.to(torch.float32)
    return taken


def _several(given: Any) -> list[Any]:
    if isinstance(given, (str, bytes, bytearray)) or not isinstance(given, Iterable):
        raise RowError(f"{_RULE}; it gave a {type(given).__name__}")
    return list(given)


def check_deadline(row: Row) -> None:
    """Refuse a row whose caller has stopped waiting, before it costs a forward."""
    if time.monotonic() > row.deadline:
        raise DeadlinePassed("the deadline (X-Request-Deadline-Ms) passed before the forward started")


def fail_unanswered(rows: Sequence[Row], error: RowError) -> None:
    """Of rows that were read, those that have not all of their outputs by now."""
    for row in rows:
        if any(output is None for output in row.outputs):
            row.error = row.error or error


def inflate(row: Row) -> None:
    """Undo what the client compressed; whoever reads the body then finds no header that says it still is."""
    encoding = row.headers.get("content-encoding")
    if encoding is not None:
        row.body = content_encoding.inflate(row.body, encoding)
        row.headers = {name: value for name, value in row.headers.items() if name != "content-encoding"}
