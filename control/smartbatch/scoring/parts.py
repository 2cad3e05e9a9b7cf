"""A part: some rows of the input that are answered, written and tried again together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """What one file of the output answers; planned by the same input the same way each time."""

    number: int
    files: tuple[str, ...]
    """Below the input. Of a table or shard: one."""
    rows: int | None = None
    """None where nobody knows before the end."""
    first_row: int = 0
    """Of a table: where its rows begin in the file."""
    groups: tuple[int, ...] = ()
    """Of a table: the row groups that they are."""

    @property
    def name(self) -> str:
        """Of its file in the output."""
        return name_of(self.number)

    def to_json(self) -> str:
        """As text, to be sent."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Part:
        """What was sent."""
        told = json.loads(text)
        return cls(**{**told, "files": tuple(told["files"]), "groups": tuple(told["groups"])})


def name_of(number: int) -> str:
    """The name of a part's file."""
    return f"part-{number:06}.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of a part."""

    number: int
    rows: int = 0
    failures: dict[str, int]
    """Rows without an answer, by status and code."""
    seconds: float = 0.0
    """From its first row to its file; 0 where it was done before."""
    error: str | None = None
    """Why it is not done."""
    is_fatal: bool = False
    """Whether no other part can fare better."""

    @property
    def failed(self) -> int:
        """How many rows have no answer."""
        return sum(self.failures.values())
