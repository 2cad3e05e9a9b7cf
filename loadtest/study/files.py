"""What a study leaves behind: study.json, study.csv, study.md, study.png, written anew after each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

from smartbatch_load.account.files import write_csv, write_json, write_text
from smartbatch_load.account.machine import Machine
from smartbatch_load.draw.pareto import pareto_front
from smartbatch_load.draw.report import number, percent
from smartbatch_load.study.grid import Grid, Setting
from smartbatch_load.study.plot import StudyPoint, draw_study
from smartbatch_load.study.rows import Round, Row, summarise


def write_study(
    folder: Path,
    rounds: Sequence[Round],
    grid: Grid,
    settings: Mapping[str, Any],
    machine: Machine,
    ended: str,
    message: str,
) -> list[Row]:
    """Write the four files from the rounds so far."""
    rows = summarise(rounds)
    warnings = study_warnings(rows, rounds, message)
    write_json(
        folder / "study.json",
        {
            "ended": ended,
            "message": message,
            "warnings": warnings,
            "rows": [asdict(row) for row in rows],
            "pareto_front": [rows.index(row) for row in _front(rows)],
            "rounds": [asdict(entry) for entry in rounds],
            "settings": dict(settings),
            "machine": asdict(machine),
        },
    )
    write_csv(folder / "study.csv", [f.name for f in fields(Row)], (astuple(row) for row in rows))
    title = f"Study: {settings['model']}, {settings['users']} users"
    caption = f"{_settings_line(grid, settings)}\n{machine}"
    write_text(folder / "study.md", study_markdown(rows, title, caption, warnings, grid))
    points = [_point(row, grid) for row in rows]
    draw_study(folder / "study.png", points, title, caption)
    return rows


def study_warnings(rows: Sequence[Row], rounds: Sequence[Round], message: str) -> list[str]:
    """What a reader must know before believing the rows."""
    warnings = [f"the study did not complete: {message}"] if message else []
    failures = sum(row.failures for row in rows)
    if failures:
        warnings.append(f"{failures} requests failed")
    apart = [row for row in rows if row.discrepancy is not None and row.discrepancy > 0.01]
    if apart:
        warnings.append(
            f"client and server disagree by more than 1 % at batch size {', '.join(str(r.batch_size) for r in apart)}"
        )
    told = [entry for entry in rounds if entry.warning]
    if told:
        warnings.append(f"in {len(told)} of {len(rounds)} rounds {told[0].warning}")
    return warnings


def study_markdown(rows: Sequence[Row], title: str, caption: str, warnings: Sequence[str], grid: Grid) -> str:
    """The rows as a Markdown table; ★ marks the Pareto front."""
    front = _front(rows)
    extra = {
        "precision": len(grid.precisions) > 1,
        "format": len(grid.formats) > 1,
        "workers": len(grid.workers) > 1,
        "max_delay_ms": len(grid.delays_ms) > 1,
    }
    shown = [name for name, varies in extra.items() if varies]
    head = [
        *(name.replace("max_delay_ms", "delay (ms)") for name in shown),
        "batch size",
        "requests/s",
        "lowest–highest",
        "× smallest batch",
        "p50 (ms)",
        "p95 (ms)",
        "average batch",
        "failures",
        "",
    ]
    lines = [f"# {title}", "", *(f"{line}  " for line in caption.splitlines()), ""]
    lines += [f"> **Warning:** {warning}" for warning in warnings] + ([""] if warnings else [])
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [
            *(str(getattr(row, name)) for name in shown),
            str(row.batch_size),
            f"{row.rps:.1f}",
            f"{row.rps_min:.1f}–{row.rps_max:.1f}",
            "–" if row.speedup is None else f"{row.speedup:.2f}",
            f"{1000 * row.p50_s:.0f}",
            f"{1000 * row.p95_s:.0f}",
            number(row.avg_batch_size),
            str(row.failures),
            "★" if row in front else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rounds = max((row.rounds for row in rows), default=0)
    cpu = max((r.generator_cpu_percent for r in rows if r.generator_cpu_percent is not None), default=None)
    apart = max((r.discrepancy for r in rows if r.discrepancy is not None), default=None)
    lines += [
        "",
        f"Medians of {rounds} interleaved rounds. ★: no other setting has more throughput at less p95. "
        f"Client's and server's counts differ by at most {percent(apart)}; the load generator took at most "
        f"{number(cpu)} % of one core.",
    ]
    return "\n".join(lines) + "\n"


def _settings_line(grid: Grid, settings: Mapping[str, Any]) -> str:
    parts = []
    if len(grid.precisions) == 1:
        parts.append(f"precision {settings.get('served_precision') or grid.precisions[0]}")
    if len(grid.workers) == 1:
        parts.append(f"{grid.workers[0]} worker{'s' if grid.workers[0] > 1 else ''}")
    if len(grid.delays_ms) == 1:
        parts.append(f"max delay {grid.delays_ms[0]} ms")
    if len(grid.formats) == 1:
        parts.append(f"{grid.formats[0]} bodies")
    parts.append(f"{settings['rounds']} rounds of {settings['duration_s']:g} s")
    return ", ".join(parts)


def _front(rows: Sequence[Row]) -> list[Row]:
    return pareto_front(rows, gain=lambda row: row.rps, cost=lambda row: row.p95_s)


def _point(row: Row, grid: Grid) -> StudyPoint:
    setting = Setting(
        batch_size=row.batch_size,
        max_delay_ms=row.max_delay_ms,
        workers=row.workers,
        precision=row.precision,
        format=row.format,
    )
    return StudyPoint(
        series=grid.label(setting),
        batch_size=row.batch_size,
        rps=row.rps,
        rps_low=row.rps_min,
        rps_high=row.rps_max,
        p50_ms=1000 * row.p50_s,
        p95_ms=1000 * row.p95_s,
    )
