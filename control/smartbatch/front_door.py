"""The front door: errors on purpose, and what the operating system refuses, become one line and an exit code.

Whatever else leaves a command is a fault of ours, and keeps its traceback.
"""

from __future__ import annotations

import locale
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from smartbatch.errors import SmartBatchError, UsageError

EXIT_INTERRUPTED = 130
"""As a shell has it for a program that SIGINT ended."""

EVERYTHING = (SmartBatchError, KeyboardInterrupt, OSError, UnicodeError)
"""What ends any command of `smartbatch`."""
VALUES = (SmartBatchError, ValueError)
"""Where every ValueError is about an option, as in the load tests."""


@contextmanager
def front_door(
    speaker: str = "smartbatch", *, errors: tuple[type[BaseException], ...] = EVERYTHING, colour: str | None = "red"
) -> Iterator[None]:
    """End the program with a line on stderr and an exit code where one of `errors` is raised within.

    Doors may stand within each other: what the inner one does not name goes to the outer one.

    Args:
        speaker: what the line begins with.
        errors: what ends the program.
        colour: of the line on a terminal.

    Raises:
        SystemExit: with the exit code.
    """
    try:
        yield
    except errors as error:
        line, exit_code = _ending(error)
        if line:
            typer.secho(f"{speaker}: {line}", fg=colour, err=True)
        raise SystemExit(exit_code) from error


def _ending(error: BaseException) -> tuple[str, int]:
    """The line and the exit code."""
    match error:
        case SmartBatchError():
            return str(error), error.exit_code
        case KeyboardInterrupt():
            return "", EXIT_INTERRUPTED
        case OSError():  # a folder that is read-only, a disk that is full, a file of somebody else's
            parts = (error.filename, error.strerror or error)
            return ": ".join(str(part) for part in parts if part is not None), UsageError.exit_code
        case UnicodeError():  # a path or file in another encoding than this locale's
            encoding = locale.nl_langinfo(locale.CODESET)
            line = f"text in another encoding than expected ({error}); the locale's is {encoding}"
            return line, UsageError.exit_code
    return str(error), UsageError.exit_code
