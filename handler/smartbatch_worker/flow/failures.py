"""What a model's exception is about, in one line, without the places in the server's files that it came from."""

from __future__ import annotations

import builtins
import re
from dataclasses import dataclass

MAX_DETAIL_CHARS = 200  # a message may quote the request; an answer must not grow with it

_SHAPE_WORDS = ("shape", "size", "dimension", "channels", "expected input", "must match", "out of range")

_TORCHSCRIPT = "The following operation failed in the TorchScript interpreter."
_LAST_FRAME = "<--- HERE"
# "RuntimeError: …", or "builtins.ValueError: …" for what the program raises itself; "RuntimeError: AssertionError: …"
# where it asserts. Source lines of the last frame stand before it, mostly indented.
_CAUSE = re.compile(r"^(?:RuntimeError: (?=\w+Error: ))?(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cause:
    """The innermost error."""

    kind: type
    """`Exception` for a class that only the model knows."""
    name: str
    detail: str
    """The first line of its message, at most `MAX_DETAIL_CHARS` long."""

    @property
    def is_about_shape(self) -> bool:
        """Whether it is of a shape or an index, so of the input rather than the model."""
        is_kind = issubclass(self.kind, (RuntimeError, ValueError, IndexError))
        return is_kind and any(word in self.detail.lower() for word in _SHAPE_WORDS)

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def cause_of(error: Exception) -> Cause:
    """What went wrong in the model.

    TorchScript wraps every error into one of its own: a headline, its traceback twice, and the error at the end.
    """
    text = str(error)
    if _TORCHSCRIPT not in text:
        return Cause(type(error), type(error).__name__, _first_line(text))
    cause = _CAUSE.search(text.rpartition(_LAST_FRAME)[2])
    if cause is None:  # at least the last thing said
        return Cause(type(error), type(error).__name__, _first_line(text.strip().splitlines()[-1]))
    kind = getattr(builtins, cause[1], Exception)
    return Cause(kind, cause[1], _first_line(cause[2]))


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:MAX_DETAIL_CHARS]
