"""Is this the answer that the payload gets when it is sent alone?

A batching server can fail in a way no status code shows: rows in the wrong order. So each payload's answer
is fetched once, alone, and every answer under load is held against it, with room for the rounding that a
different batch size brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

RELATIVE_TOLERANCE = 0.05
"""Of the largest score: bf16 keeps 8 bits, and a batch of another size rounds differently."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a payload's answer must look like."""

    labels: tuple[str, ...]
    """Top-k answers: the labels, best first. All others: empty."""
    scores: tuple[float, ...]
    """Top-k answers: their scores. All others: every number, laid end to end."""
    texts: tuple[str, ...] = ()
    """Whatever else stands in the answer, which rounding does not change."""
    digest: str = ""
    """Of an answer that is no JSON: the same bytes are expected. Of all others: empty."""

    @property
    def tolerance(self) -> float:
        """How far a score may lie from the solo answer's, same unit as the scores."""
        largest = max((abs(score) for score in self.scores), default=0.0)
        return max(RELATIVE_TOLERANCE * largest, 1e-6)


def parse(body: bytes | str) -> Expected:
    """Read an answer body: JSON of any form, or bytes that are none.

    Raises:
        ValueError: there is nothing in it.
    """
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        content = body.encode() if isinstance(body, str) else body
        return Expected((), (), digest=sha256(content).hexdigest())
    found = _Found()
    found.add(answer)
    if not (found.scores or found.texts):
        raise ValueError("answer is empty")
    if len(found.labels) == len(found.scores):
        return Expected(tuple(found.labels), tuple(found.scores), tuple(found.texts))
    return Expected((), tuple(found.scores), (*found.labels, *found.texts))


def mismatch(expected: Expected, body: bytes | str) -> str | None:
    """Say what is wrong with an answer; None when it is right.

    Its length must be the solo answer's. The best entry must be the solo answer's best, or one that the solo
    answer scored within tolerance of it; its score must be within tolerance. What is no number must be the same.
    """
    try:
        got = parse(body)
    except ValueError as error:
        return str(error)
    if got.digest != expected.digest:
        return "answer has other bytes than it had alone" if expected.digest else "answer is not JSON"
    if len(got.scores) != len(expected.scores):
        return f"answer has {len(got.scores)} entries, alone it had {len(expected.scores)}"
    if got.texts != expected.texts:
        return "answer has other texts than it had alone"
    if not got.scores:
        return None
    best = max(expected.scores)
    top = max(got.scores)
    if abs(top - best) > expected.tolerance:
        return f"best score is {top:.6g}, alone it was {best:.6g}"
    if expected.labels:
        solo = dict(zip(expected.labels, expected.scores, strict=True))
        label = got.labels[0] if got.labels else None
        if label is None or best - solo.get(label, float("-inf")) > expected.tolerance:
            return f"best label is {label!r}, alone it was {expected.labels[0]!r}"
        return None
    index = got.scores.index(top)
    if best - expected.scores[index] > expected.tolerance:
        return f"best entry is number {index}, alone it was number {expected.scores.index(best)}"
    return None


def to_json(answers: Mapping[str, Expected]) -> bytes:
    """Expected answers by payload name, for the load generator's processes."""
    return msgspec.json.encode(answers)


def from_json(text: bytes) -> dict[str, Expected]:
    """Inverse of `to_json`."""
    return msgspec.json.decode(text, type=dict[str, Expected])


@dataclass(slots=True)
class _Found:
    """What stands in an answer, in order; keys of objects in that of the alphabet."""

    labels: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def add(self, entry: Any) -> None:
        """Whatever JSON holds."""
        if isinstance(entry, list):
            for each in entry:
                if type(each) is float:  # a million of them in an answer, so without a call each
                    self.scores.append(each)
                else:
                    self.add(each)
        elif isinstance(entry, dict):
            is_class = "score" in entry and ("label" in entry or "index" in entry)
            if is_class:
                self.labels.append(" ".join(str(entry[key]) for key in ("index", "label") if key in entry))
            is_tensor = "datatype" in entry and "data" in entry  # whose shape is no score
            for key in ("data",) if is_tensor else sorted(entry):
                if not (is_class and key in ("index", "label")):
                    self.add(entry[key])
        elif isinstance(entry, (int, float)) and not isinstance(entry, bool):
            self.scores.append(float(entry))
        else:
            self.texts.append(str(entry))
