"""Rows to replies: the form each client asked for, with status, content type and headers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from smartbatch_worker.contract import headers, media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import AnswerFailed, RowError
from smartbatch_worker.flow import encode
from smartbatch_worker.flow.answers import open_inference, outputs, tensor_files
from smartbatch_worker.flow.rows import Row

logger = logging.getLogger(__name__)

_FILES = {
    media_types.NPY: tensor_files.encode_npy,
    media_types.NPZ: tensor_files.encode_npz,
    media_types.SAFETENSORS: tensor_files.encode_safetensors,
}


class Replies:
    """Writes one batch's answers; what cannot be written fails for its own row.

    Args:
        config: forms and labels asked for by default.
        labels: class names in index order, None where there are none.
        postprocess_item: one item's output to what stands in its answer.
        is_customised: whether that is a user's.
        max_bytes: the most that the frontend takes as one answer; a longer one costs the whole batch and its worker.
        served: which model this is, for answers that say so.
        spell: an answer in tokens to its text; None where the archive has no tokenizer.
    """

    def __init__(
        self,
        config: WorkerConfig,
        labels: Sequence[str] | None,
        postprocess_item: Callable[[Any], Any],
        is_customised: bool,
        max_bytes: int,
        served: open_inference.Served,
        spell: Callable[[torch.Tensor], str] | None = None,
    ) -> None:
        self._config = config
        self._labels = labels
        self._postprocess_item = postprocess_item
        self._is_customised = is_customised
        self._max_bytes = max_bytes
        self._served = served
        self._spell = spell

    def write(self, rows: Sequence[Row], context: Any, weights: str, stage_seconds: Mapping[str, float]) -> list[bytes]:
        """Encode every row, valid or failed.

        Args:
            rows: of one batch.
            context: takes statuses and headers.
            weights: where they are from.
            stage_seconds: what the batch has spent until now in each stage, told to those who ask.

        Returns:
            One body a row, in order; statuses and headers are set on the context.
        """
        forms = [self._form(row) for row in rows]
        self._take_top_classes(rows, forms)
        bodies = []
        for index, (row, form) in enumerate(zip(rows, forms, strict=True)):
            body = self._try_encode(row, form) if row.error is None else b""
            if row.error is not None:
                row.media_type, row.json_length = media_types.JSON, None
                body = encode.encode_error(row.error, as_text=row.asked is not None)
            context.set_response_content_type(index, row.media_type)
            context.set_response_status(row.status, encode.reason_phrase(row.status), index)
            context.set_response_header(index, headers.BATCH_SIZE, str(len(rows)))
            context.set_response_header(index, headers.FORWARD_SIZE, str(row.forward_size))
            context.set_response_header(index, headers.WEIGHTS, weights)
            if row.waited_s is not None:
                context.set_response_header(index, headers.SERVER_TIMING, _server_timing(row.waited_s, stage_seconds))
            if row.json_length is not None:
                context.set_response_header(index, headers.JSON_LENGTH, str(row.json_length))
            if row.num_truncated:
                context.set_response_header(index, headers.TRUNCATED, str(row.num_truncated))
            if row.error is not None and row.error.retry_after_s is not None:
                context.set_response_header(index, "Retry-After", str(row.error.retry_after_s))
            bodies.append(body)
        return bodies

    def _form(self, row: Row) -> str:
        """One of `config.OUTPUTS` but auto, or custom."""
        if row.error is not None:
            return "raw"
        wanted = row.output or self._config.output
        if row.asked is not None:
            return self._form_of_tensors(wanted)
        if row.media_type != media_types.JSON:  # which a file of tensors cannot have, a client was told before
            return "raw" if wanted == "auto" or outputs.needs_words(wanted) else wanted
        if self._is_customised:
            return "custom"
        if wanted != "auto":
            return wanted
        if not (row.is_image or row.is_text):
            return "raw"
        if all(map(_is_classifiers, row.outputs)):
            return "topk"
        return "boxes" if row.is_image and all(map(_is_detectors, row.outputs)) else "raw"

    def _form_of_tensors(self, wanted: str) -> str:
        """Of an answer in the Open Inference Protocol, which has a way of its own to ask for classes."""
        if self._is_customised:
            return "custom"
        return "raw" if wanted == "auto" or (outputs.needs_words(wanted) and wanted != "text") else wanted

    def _take_top_classes(self, rows: Sequence[Row], forms: Sequence[str]) -> None:
        """Softmax and top classes for the whole batch at once, per number of classes."""
        by_width: dict[int, list[tuple[Row, int, torch.Tensor]]] = {}
        for row, form in zip(rows, forms, strict=True):
            if form != "topk" or row.error is not None:
                continue
            for position, output in enumerate(row.outputs):
                logits = outputs.scores_of(output)
                if logits is None:
                    row.error = outputs.misfit("topk", output)
                    break
                by_width.setdefault(logits.shape[0], []).append((row, position, logits))
        for places in by_width.values():
            found = outputs.top_classes([logits for _, _, logits in places], self._config.topk, self._labels)
            for (row, position, _), classes in zip(places, found, strict=True):
                row.outputs[position] = classes

    def _try_encode(self, row: Row, form: str) -> bytes:
        """The row's body; where there can be none, b"", and the row's error says why."""
        try:
            return self._encode([self._take(output, form) for output in row.outputs], row)
        except RowError as error:
            row.error = error
        except Exception as error:  # a user's postprocess_item may raise, or give, anything
            logger.exception("an answer could not be written")
            detail = (str(error).splitlines() or [""])[0]
            row.error = AnswerFailed(f"the answer could not be written: {type(error).__name__}: {detail}")
        return b""

    def _take(self, output: Any, form: str) -> Any:
        """What of one item's output is wanted; its top classes have been taken with those of others."""
        if form == "custom":
            return self._postprocess_item(encode.without_halves(output))
        if form == "text":
            return self._spelled(output)
        if form == "labels":
            return outputs.best_labels(output, self._labels)
        if form == "boxes":
            return outputs.found_boxes(output, self._config.score_threshold, self._labels)
        if form == "text":
            return self._spelled(output)
        if form == "mask":
            return outputs.best_mask(output)
        return outputs.unit_vector(output) if form == "embedding" else output

    def _spelled(self, output: Any) -> str:
        if self._spell is None or not isinstance(output, torch.Tensor) or not outputs.are_tokens(output):
            raise outputs.misfit("text", output)
        return self._spell(output)

    def _encode(self, results: Sequence[Any], row: Row) -> bytes:
        if row.asked is not None:
            body, row.json_length = open_inference.write(
                results, row.has_batch_dim, row.asked, self._served, self._labels, self._max_bytes
            )
            row.media_type = media_types.JSON if row.json_length is None else media_types.ANY
            return body
        if row.media_type in _FILES:
            return _FILES[row.media_type](results, row.has_batch_dim, self._max_bytes)
        key = "predictions" if row.is_instances else None if self._config.envelope == "bare" else "result"
        return encode.encode_result(results if row.has_batch_dim else results[0], self._max_bytes, key)


def _server_timing(waited_s: float, stage_seconds: Mapping[str, float]) -> str:
    """Milliseconds, in order; how long this batch's encoding takes nobody knows before it is over."""
    parts = {"queue": waited_s} | {stage: spent for stage, spent in stage_seconds.items() if stage != "encode"}
    return ", ".join(f"{name};dur={1000 * spent:.3f}" for name, spent in parts.items())


def _is_classifiers(output: Any) -> bool:
    """Whether an answer is scores of classes and nothing else."""
    is_alone = isinstance(output, torch.Tensor) or (isinstance(output, Mapping) and set(output) == {"logits"})
    return is_alone and outputs.scores_of(output) is not None


def _is_detectors(output: Any) -> bool:
    """Whether an answer is boxes and nothing else, as masks or keypoints, that would be lost."""
    return outputs.is_detection(output) and len(output) == 3
