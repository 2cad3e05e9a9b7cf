"""The `smartbatch` command: one table of commands, each imported only when it runs or its help is shown."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import typer
from typer.core import TyperGroup

from smartbatch.front_door import front_door


class Command(NamedTuple):
    """Where a command is.

    Attributes:
        module: what is imported when the command is wanted.
        function: its function, whose docstring's first line is its summary; or a `typer.Typer` of its subcommands.
        plain: help texts are shown as they are written, brackets and all, without frames.
    """

    module: str
    function: str
    plain: bool = False


COMMANDS: dict[str, Command] = {
    "archive": Command("smartbatch.commands.archive", "archive"),
    "autoscale": Command("smartbatch.commands.autoscale", "autoscale"),
    "capacity": Command("smartbatch_load.capacity.command", "capacity", plain=True),
    "doctor": Command("smartbatch.commands.doctor", "doctor"),
    "env": Command("smartbatch.commands.env", "env"),
    "metrics": Command("smartbatch.commands.metrics", "metrics"),
    "migrate": Command("smartbatch.commands.migrate", "migrate"),
    "predict": Command("smartbatch.commands.predict", "predict"),
    "register": Command("smartbatch.commands.register", "register"),
    "retune": Command("smartbatch.commands.retune", "retune"),
    "scale": Command("smartbatch.commands.scale", "scale"),
    "score": Command("smartbatch.commands.score", "score"),
    "serve": Command("smartbatch.commands.serve", "serve"),
    "status": Command("smartbatch.commands.status", "status"),
    "stop": Command("smartbatch.commands.stop", "stop"),
    "stress": Command("smartbatch_load.stress.command", "stress", plain=True),
    "study": Command("smartbatch_load.study.command", "study", plain=True),
    "token": Command("smartbatch.commands.token", "token"),
    "top": Command("smartbatch.commands.top", "top", plain=True),
    "tune": Command("smartbatch.commands.tune", "tune"),
    "unregister": Command("smartbatch.commands.unregister", "unregister"),
}
"""All commands, in the order in which `--help` lists them."""


class LazyGroup(TyperGroup):
    """A group whose commands are the rows of a table."""

    table: ClassVar[Mapping[str, Command]] = COMMANDS

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None where there is none."""
        if cmd_name not in self.commands and cmd_name in self.table:
            self.commands[cmd_name] = _load(cmd_name, self.table[cmd_name])
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the table's order."""
        return list(self.table)


def _load(name: str, row: Command) -> Any:
    """The command of a row."""
    found = getattr(importlib.import_module(row.module), row.function)
    if isinstance(found, typer.Typer):
        group = typer.main.get_command(found)
        group.name = name
        return group
    plain = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone = plain if row.plain else typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=LazyGroup,
    name="smartbatch",
    help="Serve PyTorch models on TorchServe with dynamic batching.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import smartbatch

        typer.echo(f"smartbatch {smartbatch.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """What may stand before a command's name."""


def main() -> None:
    """Run the command that the arguments name."""
    with front_door():
        app()


if __name__ == "__main__":
    main()
