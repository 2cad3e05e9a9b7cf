"""`smartbatch stop`: ask the process that serves to drain and end, or do it in its place where it does not."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from smartbatch.errors import DeadlineError, NotRunningError
from smartbatch.remote.endpoints import find_state
from smartbatch.remote.process_identity import wait_gone
from smartbatch.remote.state import ServerState
from smartbatch.server.leftovers import clean_up
from smartbatch.server.running import RunningServer
from smartbatch.server.stopping.drain import DrainReport
from smartbatch.server.stopping.stop_request import read_outcome, standing_request, write_outcome

MARGIN_S = 60.0
"""Beyond the grace, for the processes to end: as long as `RunningServer.end` waits before and after it kills."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a stop went."""

    pid: int
    seconds: float
    complete: bool
    """Everything accepted was answered."""
    remark: str

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def text(self) -> str:
        """One line for people."""
        remark = f": {self.remark}" if self.remark else ""
        return f"stopped (pid {self.pid}) after {self.seconds:.1f} s{remark}"


def stop_server(run_dir: Path | None, inference_port: int | None, grace_s: float) -> StopReport:
    """Stop the server and return when its processes are gone; any number may do so at once.

    Raises:
        NotRunningError: when no such server runs.
        DeadlineError: when its processes are still there a minute after the grace.
    """
    start = time.monotonic()
    state = find_state(run_dir, inference_port)
    jvm, supervisor = state.jvm(), state.supervisor()
    if jvm is None and (supervisor is None or not state.supervisor_drains):
        clean_up(state)
        raise NotRunningError(f"the server in {state.run_dir} (pid {state.pid}) is gone already; tidied up after it")
    if supervisor is None or not state.supervisor_drains:
        return _report(state.pid, start, _stop_in_its_place(state, grace_s))
    with standing_request(state, grace_s):
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
        alive = wait_gone([p for p in (jvm, supervisor) if p is not None], grace_s + MARGIN_S)
    if alive:
        raise DeadlineError(f"still there: pid {', '.join(str(p.pid) for p in alive)}; see {state.run_dir}/logs")
    return _report(state.pid, start, _outcome(state))


def _stop_in_its_place(state: ServerState, grace_s: float) -> DrainReport | None:
    """Drain and end a server whose supervisor does not: a program that started it, or none that lives."""
    with _one_at_a_time(Path(state.run_dir)):
        if state.jvm() is None:  # another stop has done it while this one waited
            return _outcome(state)
        report = RunningServer(state).stop(grace_s)
        write_outcome(state, None if report is None else asdict(report))
        return report


def _outcome(state: ServerState) -> DrainReport | None:
    fields = read_outcome(state)
    return None if fields is None else DrainReport(**fields)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _report(pid: int, start: float, drained: DrainReport | None) -> StopReport:
    seconds = time.monotonic() - start
    if drained is None:
        return StopReport(pid, seconds, False, "ended without draining")
    return StopReport(pid, seconds, drained.complete, drained.remark)
