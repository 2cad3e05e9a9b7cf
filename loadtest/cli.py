"""`python -m loadtest.cli`: the load tests alone, as rows of the table of `smartbatch`."""

from __future__ import annotations

import typer
from smartbatch.cli import COMMANDS, LazyGroup
from smartbatch.front_door import front_door


class _LoadTests(LazyGroup):
    table = {name: COMMANDS[name] for name in ("stress", "study", "capacity", "top")}  # noqa: RUF012


app = typer.Typer(
    cls=_LoadTests,
    no_args_is_help=True,
    add_completion=False,
    help="Load tests of a SmartBatch server.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options() -> None:
    """Nothing stands before a command's name."""


def main() -> None:
    """Run the load test that the arguments name."""
    with front_door():
        app()


if __name__ == "__main__":
    main()
