"""What `smartbatch stop` and the `smartbatch serve` it stops tell each other, as files in the server's run folder.

stop-<pid>.json      from a stop that waits: how long accepted requests may take. It counts only while that process
                     lives and for the server it names, so that one left behind changes nothing
logs/last-stop.json  from serve, at its end: how its stop went; several that waited all read it
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smartbatch.remote.process_identity import live_process, own_birth
from smartbatch.remote.state import ServerState

_REQUESTS = "stop-*.json"


@contextmanager
def standing_request(state: ServerState, grace_s: float) -> Iterator[None]:
    """Ask the server's supervisor for `grace_s`, for as long as the block lasts; a signal makes it look."""
    path = Path(state.run_dir) / f"stop-{os.getpid()}.json"
    fields = {"pid": os.getpid(), "birth": own_birth(), "supervisor": _supervisor(state), "grace_s": grace_s}
    _write(path, fields)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def asked_grace(state: ServerState) -> float | None:
    """The shortest grace in seconds that a `smartbatch stop` which waits for this server asks for; None without one."""
    graces = []
    for path in Path(state.run_dir).glob(_REQUESTS):
        fields = _read(path)
        if fields and fields["supervisor"] == _supervisor(state) and live_process(fields["pid"], fields["birth"]):
            graces.append(float(fields["grace_s"]))
    return min(graces, default=None)


def write_outcome(state: ServerState, report: Mapping[str, Any] | None) -> None:
    """Leave word of how the stop went: the fields of a DrainReport, None where nothing was drained."""
    _write(_outcome(state), {"supervisor": _supervisor(state), "report": report})


def read_outcome(state: ServerState) -> Mapping[str, Any] | None:
    """How the stop of this server went; None when it was not drained."""
    fields = _read(_outcome(state))
    if fields is None or fields["supervisor"] != _supervisor(state):
        return None
    report: Mapping[str, Any] | None = fields["report"]
    return report


def remove_requests(run_dir: Path) -> None:
    """Remove what stops that were killed left behind."""
    for path in run_dir.glob(_REQUESTS):
        path.unlink(missing_ok=True)


def _supervisor(state: ServerState) -> list[Any]:
    return [state.supervisor_pid, state.supervisor_birth]


def _outcome(state: ServerState) -> Path:
    return Path(state.run_dir) / "logs" / "last-stop.json"


def _write(path: Path, fields: dict[str, Any]) -> None:
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    staged.write_text(json.dumps(fields), encoding="utf-8")
    staged.replace(path)  # whoever reads sees all of it or nothing


def _read(path: Path) -> dict[str, Any] | None:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return fields
