"""`smartbatch stop`: ask the process that serves to drain and end, or do it in its place when it is gone."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from smartbatch.drain import DrainReport
from smartbatch.endpoints import find_state
from smartbatch.errors import DeadlineError, NotRunningError
from smartbatch.server import RunningServer, clean_up

_GRACE_FILE = "grace"
_OUTCOME_FILE = "drained.json"
_MARGIN_S = 60.0


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
    """Stop the server and return when its processes are gone.

    Raises:
        NotRunningError: when no such server runs.
        DeadlineError: when its processes are still there a minute after the grace.
    """
    start = time.monotonic()
    state = find_state(run_dir, inference_port)
    jvm, supervisor = state.jvm(), state.supervisor()
    if jvm is None and supervisor is None:
        clean_up(state)
        raise NotRunningError(f"the server in {state.run_dir} (pid {state.pid}) is gone already; tidied up after it")
    if supervisor is None:
        return _report(state.pid, start, RunningServer(state).stop(grace_s))
    outcome = Path(state.run_dir) / _OUTCOME_FILE
    outcome.unlink(missing_ok=True)
    (Path(state.run_dir) / _GRACE_FILE).write_text(str(grace_s), encoding="ascii")
    processes = [p for p in (jvm, supervisor) if p is not None]
    with suppress(psutil.NoSuchProcess):
        supervisor.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s + _MARGIN_S)
    if alive:
        raise DeadlineError(f"still there: pid {', '.join(str(p.pid) for p in alive)}; see {state.run_dir}/logs")
    try:
        drained = DrainReport(**json.loads(outcome.read_text(encoding="utf-8")))
    except FileNotFoundError:
        drained = None  # it was not draining: still starting, or told to end at once
    outcome.unlink(missing_ok=True)
    return _report(state.pid, start, drained)


def answer_stop(run_dir: Path, report: DrainReport | None) -> None:
    """Leave word for the `smartbatch stop` that waits."""
    if report is not None:
        (run_dir / _OUTCOME_FILE).write_text(json.dumps(asdict(report)), encoding="utf-8")


def asked_grace(run_dir: Path) -> float | None:
    """The grace in seconds that `smartbatch stop` asked for; None when it was a signal from somebody else."""
    path = run_dir / _GRACE_FILE
    try:
        return float(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    finally:
        path.unlink(missing_ok=True)


def _report(pid: int, start: float, drained: DrainReport | None) -> StopReport:
    seconds = time.monotonic() - start
    if drained is None:
        return StopReport(pid, seconds, False, "ended without draining")
    return StopReport(pid, seconds, drained.complete, drained.remark)
