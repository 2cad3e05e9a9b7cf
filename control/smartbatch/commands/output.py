"""What commands print: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from smartbatch.errors import RowsFailedError

if TYPE_CHECKING:
    from smartbatch.bulk.rows import Summary


def answer(fields: Any, as_json: bool, text: str) -> None:
    """The answer: one JSON document for scripts, or a text for people."""
    typer.echo(json.dumps(fields, indent=2) if as_json else text)


def say(line: str) -> None:
    """A step, for whoever watches."""
    typer.echo(line, err=True)


def note(lines: Iterable[str]) -> None:
    """What was done otherwise than asked."""
    for line in lines:
        typer.secho(f"note: {line}", fg="yellow", err=True)


def answer_rows(summary: Summary, as_json: bool, rows: str, reasons: str) -> None:
    """What has become of many rows.

    Args:
        summary: of them.
        as_json: for scripts.
        rows: how many, in words.
        reasons: the file that says why some failed.

    Raises:
        RowsFailedError: some did.
    """
    done = f"{summary.out}: {rows}, {summary.failed} of them failed"
    answer(asdict(summary), as_json, f"{done}; {summary.seconds:.1f} s, {summary.rows_per_s:.1f}/s")
    if summary.failed:
        note(f"{count} failed with {code}" for code, count in sorted(summary.failures.items()))
        raise RowsFailedError(
            f"{summary.failed} of {summary.rows} rows failed: {reasons} says why; --retry-failed tries them again"
        )
