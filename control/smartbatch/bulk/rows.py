"""A row: one input, which gets one answer or one failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from smartbatch.errors import SmartBatchError


class UnreadableRowError(SmartBatchError):
    """A row of which no body can be made; it fails alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One input."""

    number: int
    """From 0, in the order of the source."""
    name: str | None
    """Of the file it is; None for what has no name."""
    load: Callable[[], tuple[bytes, str]]
    """Its body and what that is, read when it is wanted; raises UnreadableRowError."""
    digest: str | None = None
    """Of what it is made of, where the source cannot be looked at as a whole: a line of a pipe."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer."""

    code: str
    message: str
    status: int | None = None
    """The HTTP status; None where the server was not asked, or did not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What has become of all rows."""

    out: str
    rows: int
    answered: int
    failed: int
    seconds: float
    """Of this run."""
    rows_per_s: float
    """Of this run: of the rows that it asked for."""
    failures: dict[str, int]
    """Of this run, by status and code."""


class Source(Protocol):
    """Where rows come from: the same ones in the same order each time, or `description` is another one."""

    @property
    def description(self) -> Mapping[str, object]:
        """What would make it another source, as JSON: kind, path, sizes, times, columns."""

    @property
    def total(self) -> int | None:
        """How many rows it has; None where nobody knows before the end."""

    def rows(self) -> Iterator[Row]:
        """All of them, each taken when it is wanted."""
