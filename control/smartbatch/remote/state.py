"""The state file: what `smartbatch stop`, `status` and clients know about a server somebody started."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import psutil

from smartbatch.errors import NotRunningError
from smartbatch.remote.process_identity import live_process

STATE_FILE = "smartbatch.json"
KEY_FILE = "key_file.json"
_MAX_BYTES = 1 << 20


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
        try:
            with staged.open("w", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self), indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())  # else a machine that loses power may keep the name and an empty file
            staged.chmod(0o600)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)


def read_state(run_dir: Path) -> ServerState:
    """Read the state file of `run_dir`.

    Processes are ended and folders removed by what it says, so it counts only where this user wrote it for this folder.

    Raises:
        NotRunningError: when there is none; or it was written before births were, and tells its processes from later
            ones by the wall clock, which once cost a living server its files.
        UnreadableStateError: when there is one that names no server.
    """
    path = run_dir / STATE_FILE
    try:
        fields = msgspec.json.decode(_read_own(path))
        if isinstance(fields, dict) and "pid_started" in fields:
            raise NotRunningError(
                f"{path} was written by an older smartbatch: end its server (pid {fields.get('supervisor_pid')}) by "
                "SIGTERM if it still runs, then remove the file"
            )
        state = msgspec.convert(fields, type=ServerState)
    except FileNotFoundError as e:
        raise NotRunningError(f"no server was started in {run_dir} (no {STATE_FILE} there)") from e
    except OSError as e:
        raise UnreadableStateError(path, e.strerror or str(e)) from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise UnreadableStateError(path, f"it is not what `smartbatch serve` writes ({e})") from e
    if Path(state.run_dir).resolve() != run_dir.resolve():
        raise UnreadableStateError(path, f"it was written for another folder, {state.run_dir}")
    return state


class UnreadableStateError(NotRunningError):
    """There is a state file, but it names no server.

    Attributes:
        path: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"cannot read {path}: {reason}; so it names no server. `smartbatch serve` moves it aside; a server that "
            "runs all the same is reached by its addresses (--management-url, --url) and stopped by its process id"
        )
        self.path = path
        self.reason = reason


def _read_own(path: Path) -> bytes:
    """The content of a plain file of this user's.

    Raises:
        OSError: there is none, it is something else, somebody else's, or too long.
    """
    # Not blocking: a named pipe would be waited for.
    if path.is_symlink():
        raise OSError("it is a symbolic link")
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no plain file")
        if found.st_uid != os.geteuid():
            raise OSError(f"it belongs to user id {found.st_uid}, and this command runs as {os.geteuid()}")
        if not 0 < found.st_size <= _MAX_BYTES:
            raise OSError("it is empty" if found.st_size == 0 else f"it has {found.st_size} bytes")
        return os.read(handle, _MAX_BYTES)
    finally:
        os.close(handle)
