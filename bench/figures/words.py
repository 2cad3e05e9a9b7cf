"""Markdown of figures: tables, lines of one width, numbers of three digits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 136
NOT_MEASURED = "Not measured on this machine yet; `make figures` does."


def three(value: float | None) -> str:
    """Three significant digits, never an exponent."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Its lines."""
    yield f"| {' | '.join(head)} |".replace("|  |", "| |")
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |".replace("|  |", "| |")


def fill(text: str, indent: str = "") -> str:
    """A paragraph; `indent` is that of its further lines."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
