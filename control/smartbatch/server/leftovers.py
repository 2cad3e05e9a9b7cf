"""What a server leaves behind in its run folder, and what may be removed of it before another one starts there."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import psutil

from smartbatch.errors import StartupError
from smartbatch.remote.state import KEY_FILE, STATE_FILE, ServerState, UnreadableStateError, read_state
from smartbatch.retune.store import remove_copies_of_server
from smartbatch.server.jvm.command import MAIN_CLASS
from smartbatch.server.start_checks import TMP_PREFIX
from smartbatch.server.stopping.stop_request import remove_requests

CONFIG_FILE = "config.properties"
"""In the run folder; the JVM's command line names it."""


def clean_up(state: ServerState) -> None:
    """Remove what a server that is gone left behind; its logs stay."""
    tmp_dir = Path(state.tmp_dir)
    if tmp_dir.name.startswith(TMP_PREFIX):  # whatever the file says, nothing else is removed
        shutil.rmtree(tmp_dir, ignore_errors=True)
    forget(Path(state.run_dir))
    remove_requests(Path(state.run_dir))
    remove_copies_of_server(Path(state.model_store), state.pid, state.pid_birth)


def forget(run_dir: Path) -> None:
    """Remove what says that a server runs there, and its tokens."""
    for name in (STATE_FILE, KEY_FILE):
        (run_dir / name).unlink(missing_ok=True)


def refuse_second(run_dir: Path) -> None:
    """Refuse a folder where a server lives, and tidy up after one that is gone.

    A state file that names nobody is moved aside: nothing is ended or removed by what it says.
    """
    if not os.path.lexists(run_dir / STATE_FILE):
        return
    try:
        state = read_state(run_dir)
    except UnreadableStateError as error:
        pid = _find_jvm(run_dir)
        if pid is not None:
            raise StartupError(
                f"a server (pid {pid}) runs in {run_dir}, though {error.path} names no server ({error.reason}): "
                f"stop it (kill {pid}), or give another --run-dir"
            ) from error
        error.path.rename(_unused(error.path))
        return
    if state.jvm() is not None:
        raise StartupError(
            f"a server (pid {state.pid}) already runs in {run_dir}: stop it first, or give another --run-dir"
        )
    clean_up(state)


def _find_jvm(run_dir: Path) -> int | None:
    """The TorchServe that was started with the configuration in `run_dir`, whatever the state file says."""
    config = str(run_dir / CONFIG_FILE)
    for process in psutil.process_iter(["cmdline"]):
        if {MAIN_CLASS, config} <= set(process.info["cmdline"] or ()):
            return int(process.pid)
    return None


def _unused(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.unreadable-{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))
