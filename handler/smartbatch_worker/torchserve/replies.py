"""Rows to replies: the form each client asked for, with status, content type and headers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from smartbatch_worker.contract import headers
from smartbatch_worker.contract.config import OUTPUTS, WorkerConfig
from smartbatch_worker.errors import AnswerFailed, MalformedBody, ModelRejected, RowError
from smartbatch_worker.flow import encode
from smartbatch_worker.flow.rows import Row

logger = logging.getLogger(__name__)


class Replies:
    """Writes one batch's answers; what cannot be written fails for its own row.

    Args:
        config: forms and labels asked for by default.
        labels: class names in index order, None where there are none.
        postprocess_item: one item's output to what stands in its answer.
        is_customised: whether that is a user's.
        max_bytes: the most that the frontend takes as one answer; a longer one costs the whole batch and its worker.
        spell: an answer in tokens to its text; None where the archive has no tokenizer.
    """

    def __init__(
        self,
        config: WorkerConfig,
        labels: Sequence[str] | None,
        postprocess_item: Callable[[Any], Any],
        is_customised: bool,
        max_bytes: int,
        spell: Callable[[torch.Tensor], str] | None = None,
    ) -> None:
        self._config = config
        self._labels = labels
        self._postprocess_item = postprocess_item
        self._is_customised = is_customised
        self._max_bytes = max_bytes
        self._spell = spell

    def write(self, rows: Sequence[Row], context: Any, weights: str) -> list[bytes]:
        """Encode every row, valid or failed.

        Returns:
            One body a row, in order; statuses and headers are set on the context.
        """
        forms = [self._form(row) for row in rows]
        self._take_top_classes(rows, forms)
        bodies = []
        for index, (row, form) in enumerate(zip(rows, forms, strict=True)):
            body = self._try_encode(row, form) if row.error is None else b""
            if row.error is not None:
                form, body = "json", encode.encode_error(row.error)
            content_type = encode.NPY_TYPE if form == "npy" else encode.JSON_TYPE
            context.set_response_content_type(index, content_type)
            context.set_response_status(row.status, encode.reason_phrase(row.status), index)
            context.set_response_header(index, headers.BATCH_SIZE, str(len(rows)))
            context.set_response_header(index, headers.WEIGHTS, weights)
            if row.num_truncated:
                context.set_response_header(index, headers.TRUNCATED, str(row.num_truncated))
            if row.error is not None and row.error.retry_after_s is not None:
                context.set_response_header(index, "Retry-After", str(row.error.retry_after_s))
            bodies.append(body)
        return bodies

    def _form(self, row: Row) -> str:
        """npy, custom, topk, text or json (raw)."""
        if row.error is not None:
            return "json"
        if row.headers.get("accept", "").split(",")[0].strip() == encode.NPY_TYPE:
            return "npy"
        wanted = row.headers.get(headers.OUTPUT.lower(), self._config.output).lower()
        if wanted not in OUTPUTS:
            row.error = MalformedBody(f"{headers.OUTPUT} must be one of {', '.join(OUTPUTS)}; got {wanted[:40]!r}")
        elif self._is_customised:
            return "custom"
        elif wanted == "topk" or (wanted == "auto" and (row.is_image or row.is_text) and self._is_classifier(row)):
            return "topk"
        elif wanted == "text":
            return "text"
        return "json"

    @staticmethod
    def _is_classifier(row: Row) -> bool:
        return all(
            isinstance(output, torch.Tensor) and output.ndim == 1 and output.is_floating_point()
            for output in row.outputs
        )

    def _take_top_classes(self, rows: Sequence[Row], forms: Sequence[str]) -> None:
        """Softmax and top classes for the whole batch at once, per number of classes."""
        by_width: dict[int, list[tuple[Row, int]]] = {}
        for row, form in zip(rows, forms, strict=True):
            if form != "topk" or row.error is not None:
                continue
            if not self._is_classifier(row):
                row.error = MalformedBody(
                    f"{headers.OUTPUT}: topk needs a model that gives one floating-point score per class; ask for raw"
                )
                continue
            for position, output in enumerate(row.outputs):
                by_width.setdefault(output.shape[0], []).append((row, position))
        for places in by_width.values():
            logits = [row.outputs[position] for row, position in places]
            for (row, position), classes in zip(
                places, encode.top_classes(logits, self._config.topk, self._labels), strict=True
            ):
                row.outputs[position] = classes

    def _try_encode(self, row: Row, form: str) -> bytes:
        """The row's body; where there can be none, b"", and the row's error says why."""
        try:
            return self._encode(row, form)
        except RowError as error:
            row.error = error
        except Exception as error:  # a user's postprocess_item may raise, or give, anything
            logger.exception("an answer could not be written")
            detail = (str(error).splitlines() or [""])[0]
            row.error = AnswerFailed(f"the answer could not be written: {type(error).__name__}: {detail}")
        return b""

    def _encode(self, row: Row, form: str) -> bytes:
        if form == "npy":
            return encode.encode_npy(row.outputs, row.has_batch_dim, self._max_bytes)
        results = row.outputs
        if form == "text":
            results = [self._spelled(output) for output in row.outputs]
        elif form == "custom":
            results = [self._postprocess_item(output) for output in row.outputs]
        return encode.encode_result(results if row.has_batch_dim else results[0], self._max_bytes)

    def _spelled(self, output: Any) -> str:
        if self._spell is None:
            raise ModelRejected(f"{headers.OUTPUT}: text needs a tokenizer in the archive; ask for raw")
        if not isinstance(output, torch.Tensor) or output.ndim != 1 or output.is_floating_point():
            raise ModelRejected(f"{headers.OUTPUT}: text needs a model that answers tokens, one list; ask for raw")
        return self._spell(output)
