"""How a load test ends where it does not come to its own end: a line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from smartbatch.front_door import EXIT_INTERRUPTED, VALUES, front_door
from smartbatch.installation import need
from smartbatch_load.load.interrupt import Interrupted

EXIT_FAILED_REQUESTS = 1


def check_ending(*, interrupted: bool, failed: bool) -> None:
    """End the program where a run that left results was interrupted, or did not come out well.

    Raises:
        typer.Exit: with the exit code.
    """
    if interrupted or failed:
        raise typer.Exit(EXIT_INTERRUPTED if interrupted else EXIT_FAILED_REQUESTS)


@contextmanager
def load_test_door() -> Iterator[Console]:
    """The front door of a load test; a signal before anything was measured ends it too.

    Yields:
        Where to say what goes on.

    Raises:
        SystemExit: with the exit code.
    """
    with front_door("error", errors=VALUES, colour=None):
        need("load", "a load test")
        try:
            yield Console(stderr=True, highlight=False)
        except Interrupted as signal:
            typer.echo(f"interrupted by {signal} before anything was measured", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from signal
