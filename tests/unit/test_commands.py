"""The table of commands: every row has a file and a line in the docs, and every file a row."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from smartbatch import commands
from smartbatch.cli import COMMANDS, app, main
from smartbatch.front_door import VALUES, front_door
from typer.testing import CliRunner

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
SHARED = {"__init__", "options", "output"}
"""What stands beside the commands without being one."""
HEAVY = ("torch", "matplotlib", "locust", "numpy", "requests", "psutil", "aiohttp", "ray", "pyarrow")


def documented() -> set[str]:
    """The commands in the first column of the table of docs/cli.md."""
    rows = [line.split("|")[1] for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z]+(?: [a-z]+)?)", row)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_row_has_a_file_of_its_own_and_a_line_in_the_docs(name: str) -> None:
    row = COMMANDS[name]
    assert row.module in (f"smartbatch.commands.{name}", f"smartbatch_load.{name}.command")
    found = getattr(importlib.import_module(row.module), row.function)
    if isinstance(found, typer.Typer):
        names = {f"{name} {each.name or getattr(each.callback, '__name__', '')}" for each in found.registered_commands}
    else:
        names = {name}
        assert found.__doc__, "a command's docstring is its help"
    assert names <= documented(), f"docs/cli.md lacks {sorted(names - documented())}"


def test_every_file_is_in_the_table() -> None:
    files = {path.stem for path in Path(commands.__path__[0]).glob("*.py")}
    assert files - SHARED == {name for name, row in COMMANDS.items() if row.module.startswith("smartbatch.")}


def test_the_help_lists_all_in_order() -> None:
    listed = typer.main.get_command(app).list_commands(None)  # type: ignore[attr-defined]
    assert listed == list(COMMANDS) == sorted(COMMANDS)


def test_no_command_imports_what_is_slow_before_it_runs() -> None:
    modules = ", ".join(row.module for row in COMMANDS.values())
    code = f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_command_imports_no_other() -> None:
    code = (
        "import sys, smartbatch.commands.stop; print([m for m in sys.modules if m.startswith('smartbatch.commands.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = set(re.findall(r"commands\.(\w+)", done.stdout)) - SHARED
    assert others == {"stop"}


@pytest.mark.parametrize(
    "arguments", [["stress"], ["study"], ["capacity"], ["top", "--once", "--picture", "x.png"]], ids=lambda a: a[0]
)
def test_a_command_whose_extra_is_missing_says_what_to_type(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "locust" else there(name))
    assert CliRunner().invoke(app, [arguments[0], "--help"]).exit_code == 0
    monkeypatch.setattr("sys.argv", ["smartbatch", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "needs locust: pip install 'smartbatch[load]'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["smartbatch", "smartbatch.cli"])
def test_the_version(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"smartbatch \d+\.\d+\.\d+\n", done.stdout)


def test_doors_within_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, front_door(), front_door("error", errors=VALUES):
        raise FileNotFoundError(2, "No such file or directory", "here")
    assert (ended.value.code, capsys.readouterr().err) == (2, "smartbatch: here: No such file or directory\n")
    with pytest.raises(SystemExit) as ended, front_door(), front_door("error", errors=VALUES):
        raise ValueError("rate must be positive")
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: rate must be positive\n")
    with pytest.raises(ZeroDivisionError), front_door():  # a fault of ours keeps its traceback
        _ = 1 / 0
