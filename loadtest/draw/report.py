"""A self-contained HTML page of one run: picture, figures, settings, machine."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid #999; } tbody th { font-weight: normal; color: #555; }
td { font-variant-numeric: tabular-nums; } img { max-width: 100%; height: auto; }
.warning { border-left: 4px solid #D55E00; padding: .4rem .8rem; background: #FDF3EC; }
.sub { color: #555; margin-top: 0; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table; without `columns`, the first cell of a row is its name."""

    title: str
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a page shows, in its order."""

    title: str
    subtitle: str
    warnings: Sequence[str] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)
    """PNG files by what a reader who cannot see them should know."""
    tables: Sequence[Table] = ()


def render(page: Page) -> str:
    """The page as HTML that needs no other file."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(page.title)}</title><style>{STYLE}</style></head><body>",
        f'<h1>{escape(page.title)}</h1><p class="sub">{escape(page.subtitle)}</p>',
    ]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in page.warnings]
    for alt, path in page.pictures.items():
        encoded = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<img alt="{escape(alt)}" src="data:image/png;base64,{encoded}">')
    parts += [_table(table) for table in page.tables]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _table(table: Table) -> str:
    lines = [f"<h2>{escape(table.title)}</h2>", "<table>"]
    if table.columns:
        cells = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
        lines.append(f"<thead><tr>{cells}</tr></thead>")
    lines.append("<tbody>")
    for row in table.rows:
        data = [f"<td>{escape(cell)}</td>" for cell in row]
        if not table.columns and row:
            data[0] = f'<th scope="row">{escape(row[0])}</th>'
        lines.append(f"<tr>{''.join(data)}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A figure for people: significant digits, a dash where there is none.

    >>> number(0.123456, unit="s")
    '0.123 s'
    >>> number(1234.5)
    '1234'
    """
    if value is None:
        return "–"
    if value == 0:
        text = "0"
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:.0f}"
    else:
        text = f"{value:.{digits}g}"
    return f"{text} {unit}".rstrip()


def percent(value: float | None) -> str:
    """A share as percent."""
    return "–" if value is None else f"{100 * value:.2f} %"
