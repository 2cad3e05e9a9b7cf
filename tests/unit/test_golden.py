"""What users type and scrape is what it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml
from smartbatch.cli import app
from smartbatch_worker.contract import metrics as names
from typer.testing import CliRunner

from tests import golden

METRICS = Path(__file__).parents[2] / "config" / "metrics.yaml"
WIDE = {"COLUMNS": "400", "TERMINAL_WIDTH": "400", "NO_COLOR": "1", "TERM": "dumb"}
FRAME = re.compile(r"[│─╭╮╰╯]+")


def help_of(*command: str) -> list[str]:
    """The lines of a command's help, without frames and columns, which are typer's."""
    result = CliRunner().invoke(app, [*command, "--help"], env=WIDE, prog_name="smartbatch")
    assert result.exit_code == 0, result.output
    lines = (" ".join(FRAME.sub(" ", line).split()) for line in result.output.splitlines())
    return [line for line in lines if line]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WIDE.items():
        monkeypatch.setenv(name, value)
    for name in ("MAX_WIDTH", "FORCE_TERMINAL"):
        monkeypatch.setattr(f"typer.rich_utils.{name}", {"MAX_WIDTH": 400}.get(name, False))


@pytest.mark.usefixtures("wide")
def test_commands() -> None:
    group = typer.main.get_command(app)
    names = group.list_commands(None)  # type: ignore[attr-defined]
    found = {name: help_of(name) for name in names} | {
        f"token {name}": help_of("token", name) for name in ("show", "rotate")
    }
    golden.check("commands", {"": help_of()} | found)


def test_metrics() -> None:
    declared = yaml.safe_load(METRICS.read_text(encoding="utf-8"))
    found = {
        f"{section} {kind}": {metric["name"]: metric["dimensions"] for metric in metrics}
        for section in ("ts_metrics", "model_metrics")
        for kind, metrics in declared[section].items()
    }
    found["the frontend's"] = {name: list(labels) for name, labels in names.FRONTEND.items()}
    golden.check("metrics", found)
