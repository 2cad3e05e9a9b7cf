"""What commands print: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer


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
