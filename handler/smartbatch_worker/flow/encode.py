"""Answers back to bytes: JSON, within what the frontend takes."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import numpy as np
import orjson
import torch

from smartbatch_worker.errors import AnswerTooLarge, RowError

MIN_JSON_BYTES = 2  # of a number and its comma
_FLOAT_BYTES = 4  # of the shortest floating-point numbers that both NumPy and JSON's writer know


def is_finite(answer: Any) -> bool:
    """Whether an answer holds no NaN and no infinity."""
    if isinstance(answer, torch.Tensor):
        is_exact = not (answer.is_floating_point() or answer.is_complex())
        return is_exact or bool(np.isfinite(without_halves(answer).numpy()).all())
    if isinstance(answer, Mapping):
        return all(is_finite(value) for value in answer.values())
    return all(is_finite(value) for value in answer) if isinstance(answer, list) else True


def without_halves(answer: Any) -> Any:
    """Floats of 16 bits and less as float32, of which each is one: for what does not know them."""
    if isinstance(answer, torch.Tensor):
        is_short = answer.is_floating_point() and answer.dtype.itemsize < _FLOAT_BYTES
        return answer.float() if is_short else answer
    if isinstance(answer, Mapping):
        return {key: without_halves(value) for key, value in answer.items()}
    return [without_halves(value) for value in answer] if isinstance(answer, (list, tuple)) else answer


def to_plain(answer: Any) -> Any:
    """Tensors to arrays the JSON encoder writes natively; a complex number is [its real part, its imaginary part]."""
    if isinstance(answer, torch.Tensor):
        if answer.is_complex():
            answer = torch.view_as_real(answer.resolve_conj())
        return np.ascontiguousarray(without_halves(answer).numpy()) if answer.ndim else answer.item()
    if isinstance(answer, np.ndarray) and np.iscomplexobj(answer):
        return np.stack([answer.real, answer.imag], axis=-1)
    if isinstance(answer, complex):
        return [answer.real, answer.imag]
    if isinstance(answer, Mapping):
        return {str(key): to_plain(value) for key, value in answer.items()}
    return [to_plain(value) for value in answer] if isinstance(answer, (list, tuple)) else answer


def to_json(value: object) -> bytes:
    """Encode an answer; NumPy arrays are written natively, without a Python object per number."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_result(result: Any, max_bytes: int, key: str | None = "result") -> bytes:
    """`{"result": …}` (or another key, or without any), in JSON.

    Raises:
        AnswerTooLarge: it has more than `max_bytes`.
        TypeError: it holds what JSON cannot.
    """
    plain = to_plain(result)
    if key is not None:
        plain = {key: plain}
    check_size(MIN_JSON_BYTES * _count_numbers(plain), max_bytes)  # before gigabytes of text are written
    body = to_json(plain)
    check_size(len(body), max_bytes)
    return body


def _count_numbers(value: Any) -> int:
    """Numbers in the arrays of a plain answer."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, Mapping):
        return sum(map(_count_numbers, value.values()))
    return sum(map(_count_numbers, value)) if isinstance(value, list) else 0


def check_size(num_bytes: int, max_bytes: int) -> None:
    """Refuse an answer that the frontend would not take.

    Raises:
        AnswerTooLarge: with both numbers.
    """
    if num_bytes > max_bytes:
        raise AnswerTooLarge(
            f"the answer has at least {num_bytes} bytes; at most {max_bytes} are sent (max_response_size in "
            "config.properties): ask for fewer items, or for application/x-safetensors, which is shorter than JSON"
        )


def encode_error(error: RowError, as_text: bool = False) -> bytes:
    """`{"error": {"code", "message"}}`, in JSON; or, as the Open Inference Protocol has it, `{"error": message}`."""
    return to_json({"error": error.message if as_text else {"code": error.code, "message": error.message}})


def reason_phrase(status: int) -> str:
    """The standard phrase of an HTTP status."""
    return HTTPStatus(status).phrase
