"""Is this the answer that the payload gets when it is sent alone?

A batching server can fail in a way no status code shows: rows in the wrong order. So each payload's answer
is fetched once, alone, and every answer under load is held against it, with room for the rounding that a
different batch size brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

RELATIVE_TOLERANCE = 0.05
"""Of the largest score: bf16 keeps 8 bits, and a batch of another size rounds differently."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a payload's answer must look like."""

    labels: tuple[str, ...]
    """Top-k answers: the labels, best first. Raw answers: empty."""
    scores: tuple[float, ...]
    """Top-k answers: their scores. Raw answers: every number, flattened."""

    @property
    def tolerance(self) -> float:
        """How far a score may lie from the solo answer's, same unit as the scores."""
        largest = max((abs(score) for score in self.scores), default=0.0)
        return max(RELATIVE_TOLERANCE * largest, 1e-6)


def parse(body: bytes | str) -> Expected:
    """Read an answer body.

    Raises:
        ValueError: not `{"result": list}` of numbers, of lists of numbers, or of top-k entries.
    """
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"answer is not JSON: {error}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("result"), list):
        raise ValueError('answer has no list under "result"')
    labels: list[str] = []
    scores: list[float] = []
    _flatten(answer["result"], labels, scores)
    if not scores:
        raise ValueError("answer is empty")
    return Expected(tuple(labels), tuple(scores))


def mismatch(expected: Expected, body: bytes | str) -> str | None:
    """Say what is wrong with an answer; None when it is right.

    Its length must be the solo answer's. The best entry must be the solo answer's best, or one that the solo
    answer scored within tolerance of it; its score must be within tolerance.
    """
    try:
        got = parse(body)
    except ValueError as error:
        return str(error)
    if len(got.scores) != len(expected.scores):
        return f"answer has {len(got.scores)} entries, alone it had {len(expected.scores)}"
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
    return msgspec.json.encode({name: (e.labels, e.scores) for name, e in answers.items()})


def from_json(text: bytes) -> dict[str, Expected]:
    """Inverse of `to_json`."""
    raw: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = msgspec.json.decode(
        text, type=dict[str, tuple[tuple[str, ...], tuple[float, ...]]]
    )
    return {name: Expected(labels, scores) for name, (labels, scores) in raw.items()}


def _flatten(entries: Sequence[Any], labels: list[str], scores: list[float]) -> None:
    for entry in entries:
        if isinstance(entry, list):
            _flatten(entry, labels, scores)
        elif isinstance(entry, dict) and "score" in entry:
            labels.append(" ".join(str(entry[key]) for key in ("index", "label") if key in entry))
            scores.append(float(entry["score"]))
        elif isinstance(entry, (int, float)) and not isinstance(entry, bool):
            scores.append(float(entry))
        else:
            raise ValueError(f"answer has an entry that is neither number nor label with score: {entry!r}")
