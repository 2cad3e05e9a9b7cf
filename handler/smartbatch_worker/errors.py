"""Errors of single rows, each with its HTTP status.

    body ──decode──▶ MalformedBody 400 · BodyTooLarge 413 · UnknownFormat 415 · WrongShape 422
                     WrongInputs 422
    item ──model───▶ ModelUnavailable 503 · ModelRejected 422 · ModelFailed 500 · NonFiniteOutput 500
                     WrongAnswerCount 500 · DoesNotFit 507 · DeadlinePassed 504
    answer ─encode─▶ AnswerFailed 500 · AnswerTooLarge 500 · ModelRejected 422 · MalformedBody 400
    Accept ─────────▶ NotAcceptable 406

A row that fails is answered on its own; it never fails the batch it came in.
"""

from __future__ import annotations

MAX_MESSAGE_CHARS = 500  # a message may quote the request; an answer must not grow with it


class RowError(Exception):
    """A failure that belongs to one request of a batch.

    Args:
        message: what was wrong with this request and what is accepted, for the client's eyes.
    """

    status: int = 500
    code: str = "internal"
    retry_after_s: int | None = None

    def __init__(self, message: str) -> None:
        message = message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"
        super().__init__(message)
        self.message = message


class MalformedBody(RowError):
    """The body claims a format and breaks its rules."""

    status, code = 400, "malformed"


class NotAcceptable(RowError):
    """The client takes answers in none of the forms that there are."""

    status, code = 406, "not_acceptable"


class BodyTooLarge(RowError):
    """More pixels, numbers or items than the configuration allows."""

    status, code = 413, "too_large"


class UnknownFormat(RowError):
    """No decoder knows this body."""

    status, code = 415, "unknown_format"


class WrongShape(RowError):
    """A well-formed tensor that this model does not take."""

    status, code = 422, "wrong_shape"


class WrongInputs(RowError):
    """Well-formed tensors that are not the inputs of this model: of other names, dtypes or shapes."""

    status, code = 422, "wrong_inputs"


class ModelRejected(RowError):
    """The model raised a shape or value error on this item alone."""

    status, code = 422, "model_rejected"


class ModelFailed(RowError):
    """The model raised on this item alone, for a reason of its own."""

    status, code = 500, "model_failed"


class WrongAnswerCount(ModelFailed):
    """The model gave another number of answers than it took items: its own fault, whatever the items were."""


class AnswerFailed(RowError):
    """The answer could not be written: `postprocess_item` raised, or JSON cannot hold what it gave."""

    status, code = 500, "answer_failed"


class AnswerTooLarge(RowError):
    """The answer has more bytes than TorchServe's frontend takes from a worker."""

    status, code = 500, "answer_too_large"


class NonFiniteOutput(RowError):
    """The model answered NaN or infinity for this item."""

    status, code = 500, "nonfinite_output"


class ModelUnavailable(RowError):
    """The weights could not be loaded; the next request tries again."""

    status, code = 503, "model_unavailable"
    retry_after_s = 1


class DeviceLost(RowError):
    """The GPU gave up while it computed a batch, and computes nothing any more until the worker has started anew."""

    status, code = 503, "device_lost"
    retry_after_s = 1


class DeadlinePassed(RowError):
    """The caller's deadline passed before the forward started."""

    status, code = 504, "deadline_passed"


class DoesNotFit(RowError):
    """One item alone does not fit in memory."""

    status, code = 507, "does_not_fit"


def blame_server(error: Exception) -> RowError:
    """What a client is told of a failure that nobody foresaw; what it was stands in the log."""
    if isinstance(error, MemoryError):
        return DoesNotFit("this request does not fit in memory")
    return RowError("the server failed on this request; its log says why")
