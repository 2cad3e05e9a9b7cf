"""How a load test ends where it does not come to its own end: a line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from smartbatch.front_door import EXIT_INTERRUPTED, VALUES, front_door

from loadtest.load.interrupt import Interrupted

EXIT_FAILED_REQUESTS = 1


@contextmanager
def load_test_door() -> Iterator[None]:
    """The front door of a load test; a signal before anything was measured ends it too.

    Raises:
        SystemExit: with the exit code.
    """
    with front_door("error", errors=VALUES, colour=None):
        try:
            yield
        except Interrupted as signal:
            typer.echo(f"interrupted by {signal} before anything was measured", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from signal
