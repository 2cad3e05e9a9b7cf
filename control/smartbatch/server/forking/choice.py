"""Which fork server makes a server's workers, or an archive's check: one of its own, a shared one, or none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from smartbatch_worker.contract.environment import FORK_SERVER

from smartbatch.errors import UsageError
from smartbatch.server.forking import fork_server

ENVIRONMENT = {
    # Idle OpenMP threads sleep instead of spinning on cores that the frontend and other workers need.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A worker that crashes in native code leaves the place where it did in its log.
    "PYTHONFAULTHANDLER": "1",
}
"""What workers have unless it is set otherwise; a shared fork server must have been started with the first."""


def forks(environment: Mapping[str, str]) -> bool:
    """Whether workers are forked at all."""
    return environment.get(FORK_SERVER) != "off" and sys.platform == "linux"


def shared(environment: Mapping[str, str]) -> Path | None:
    """The socket of a fork server that runs already, if the variable names one.

    Raises:
        UsageError: it names something else.
    """
    said = environment.get(FORK_SERVER, "")
    if said in ("", "on", "off"):
        return None
    path = Path(said)
    if not (path.is_absolute() and path.is_socket()):
        raise UsageError(f"{FORK_SERVER} must be on, off, or the absolute path of a fork server's socket; got {said!r}")
    return path


def python_command(environment: Mapping[str, str]) -> list[str]:
    """What to type for Python: in a process forked from the shared fork server, if there is one."""
    address = shared(environment) if forks(environment) else None
    return [sys.executable] if address is None else fork_server.python_command(sys.executable, address)
