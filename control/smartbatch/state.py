"""The state file: what `smartbatch stop`, `status` and clients know about a server somebody started."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from smartbatch.errors import NotRunningError
from smartbatch.process_identity import live_process

STATE_FILE = "smartbatch.json"
KEY_FILE = "key_file.json"
DRAIN_FILE = "drain"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerState:
    """One running server, as written to `<run_dir>/smartbatch.json`."""

    pid: int
    """The JVM's."""
    pid_birth: str
    """When it started (`process_identity.birth`), so that a reused pid is not taken for it."""
    supervisor_pid: int
    """The process that started it."""
    supervisor_birth: str
    supervisor_drains: bool
    """Whether that is `smartbatch serve`, which drains on SIGTERM; a program that started a server does not."""
    run_dir: str
    tmp_dir: str
    model_store: str
    inference_url: str
    management_url: str
    metrics_url: str
    token_auth: bool
    tls_cert: str | None
    started_at: float
    """Unix seconds, for people; `process_identity.age_s` tells how long it has run."""
    ready: bool = False
    """Whether the models it was asked to serve have been ready once."""

    def jvm(self) -> psutil.Process | None:
        """The JVM, if it is still that process."""
        return live_process(self.pid, self.pid_birth)

    def supervisor(self) -> psutil.Process | None:
        """The process that started the JVM, if it still lives."""
        return live_process(self.supervisor_pid, self.supervisor_birth)

    def write(self) -> None:
        """Replace the state file in one step, readable by its owner only."""
        path = Path(self.run_dir) / STATE_FILE
        staged = path.with_suffix(f".{os.getpid()}.tmp")
        staged.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        staged.chmod(0o600)
        staged.replace(path)


def read_state(run_dir: Path) -> ServerState:
    """Read the state file of `run_dir`.

    Raises:
        NotRunningError: when there is none or it cannot be read; or it was written before births were, and tells
            its processes from later ones by the wall clock, which once cost a living server its files.
    """
    path = run_dir / STATE_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(fields, dict) and "pid_started" in fields:
            raise NotRunningError(
                f"{path} was written by an older smartbatch: end its server (pid {fields.get('supervisor_pid')}) by "
                "SIGTERM if it still runs, then remove the file"
            )
        return ServerState(**fields)
    except FileNotFoundError as e:
        raise NotRunningError(f"no server was started in {run_dir} (no {STATE_FILE} there)") from e
    except (OSError, ValueError, TypeError) as e:
        raise NotRunningError(f"cannot read {path}: {e}") from e
