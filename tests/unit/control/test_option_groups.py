"""A group of options is, on the command line, its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from smartbatch.option_groups import composed
from typer.testing import CliRunner

Size = Annotated[int, typer.Option(min=1, help="How large.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Two options."""

    size: Size = 1
    label: Annotated[str | None, typer.Option("--name")] = None


def invoke(*words: str) -> tuple[int, str, list[tuple[str, int, Box, bool]]]:
    """Exit code, output, and what the command was called with."""
    calls = []

    @composed
    def command(
        *,
        what: Annotated[str, typer.Argument()],
        first: int = 1,
        box: Box,
        last: Annotated[bool, typer.Option()] = False,
    ) -> None:
        """Says what it is."""
        calls.append((what, first, box, last))

    app = typer.Typer(rich_markup_mode=None)
    app.command()(command)
    result = CliRunner().invoke(app, words)
    return result.exit_code, result.output, calls


def test_its_options_are_the_commands_own() -> None:
    assert invoke("it") == (0, "", [("it", 1, Box(), False)])
    given = ("it", "--first=2", "--size=3", "--name=n", "--last")
    assert invoke(*given) == (0, "", [("it", 2, Box(size=3, label="n"), True)])
    code, output, calls = invoke("it", "--size=0")
    assert (code, calls) == (2, [])
    assert "--size" in output


def test_they_stand_in_its_place_in_the_help() -> None:
    _, output, _ = invoke("--help")
    assert "Says what it is." in output
    places = [output.index(option) for option in ("--first", "--size", "--name", "--last")]
    assert places == sorted(places)
