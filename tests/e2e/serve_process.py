"""`smartbatch serve` as a process on free ports, ended whatever happens; and all ways to tell it to stop."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from smartbatch.errors import NotRunningError
from smartbatch.remote.state import ServerState, read_state
from smartbatch.server.stopping.stop import StopReport, stop_server

from tests.e2e.test_serve import COMMAND, PORTS, wait_ready

# Makes standard input its terminal, which hangs up on it when it is closed; then becomes the command.
_ON_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
END_TIMEOUT_S = 120
"""For a whole stop; generous, since a busy machine stops slowly. As TimeoutStopSec, after it SIGKILL would come."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server whose models are ready."""

    process: subprocess.Popen[str]
    state: ServerState
    run_dir: Path
    said: Path
    """What it wrote to standard error, or to its terminal."""
    terminal: subprocess.Popen[bytes] | None
    """Shows what the server says, if it is on one; the server's terminal is closed with it."""

    @property
    def inference_url(self) -> str:
        """Where clients send requests."""
        return self.state.inference_url

    def tree(self) -> list[psutil.Process]:
        """Supervisor, JVM, stand-ins and workers: what systemd finds in the unit's control group."""
        supervisor = psutil.Process(self.process.pid)
        found = {process.pid: process for process in (supervisor, *supervisor.children(recursive=True))}
        for model in requests.get(f"{self.state.management_url}/models", timeout=60).json()["models"]:
            url = f"{self.state.management_url}/models/{model['modelName']}"
            for worker in requests.get(url, timeout=60).json()[0]["workers"]:
                found.setdefault(worker["pid"], psutil.Process(worker["pid"]))  # a shared fork server's child
        return list(found.values())

    def wait_said(self, text: str) -> None:
        """Wait until it has said so."""
        while text not in self.said.read_text(errors="replace"):
            assert self.process.poll() is None, self.said.read_text(errors="replace")
            time.sleep(0.01)

    def stop_command(self, *args: str) -> subprocess.Popen[str]:
        """`smartbatch stop`, begun."""
        return subprocess.Popen(
            [*COMMAND, "stop", f"--run-dir={self.run_dir}", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextmanager
def served(
    model_store: Path,
    folder: Path,
    *args: str,
    env: Mapping[str, str],
    on_a_terminal: bool = False,
    models: Sequence[str] = ("tiny",),
) -> Iterator[Served]:
    """Serve one worker of `tiny`, or of each of the models, for the length of the block."""
    run_dir, said = folder / "run", folder / "said"
    command = [*COMMAND, "serve", f"--model-store={model_store}", "--workers=1", *PORTS]
    command += [f"--model={model}" for model in models]
    command += [f"--run-dir={run_dir}", *args]
    environment = {**os.environ, **env}
    terminal = None
    with said.open("wb") as sink:
        if on_a_terminal:
            ours, theirs = pty.openpty()
            command = [sys.executable, "-c", _ON_A_TERMINAL, *command]
            process = subprocess.Popen(
                command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, text=True, close_fds=True
            )
            terminal = subprocess.Popen(["cat"], stdin=ours, stdout=sink)
            os.close(ours)
            os.close(theirs)
        else:
            process = subprocess.Popen(command, env=environment, stderr=sink, text=True)
    try:
        yield Served(process, wait_ready(run_dir, process), run_dir, said, terminal)
    finally:
        for started in (process, terminal):
            if started is not None:
                started.kill()
                started.wait()
        with suppress(NotRunningError):
            jvm = read_state(run_dir).jvm()
            if jvm is not None:
                jvm.kill()


def _by_command(server: Served) -> None:
    said, _ = (stopping := server.stop_command()).communicate(timeout=END_TIMEOUT_S)
    assert stopping.returncode == 0, said


def _by_command_twice(server: Served) -> None:
    first = server.stop_command()
    server.wait_said("Stopping")
    second: StopReport = stop_server(server.run_dir, None, 30)
    said, _ = first.communicate(timeout=END_TIMEOUT_S)
    assert first.returncode == 0, said
    assert second.complete, second


def _by_sigterm_twice(server: Served) -> None:
    server.process.terminate()
    server.wait_said("Stopping")
    server.process.terminate()


def _by_sigterm_to_all(server: Served) -> None:
    _signal_all(server, signal.SIGTERM)


def _as_systemd_does(server: Served) -> None:
    """KillMode=control-group, SendSIGHUP=yes: SIGTERM, SIGCONT, SIGHUP to all; SIGKILL only after TimeoutStopSec."""
    for signum in (signal.SIGTERM, signal.SIGCONT, signal.SIGHUP):
        _signal_all(server, signum)


def _signal_all(server: Served, signum: signal.Signals) -> None:
    for process in server.tree():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signum)


def _by_closing_the_terminal(server: Served) -> None:
    assert server.terminal is not None
    server.terminal.kill()


# Of two ways that one handler answers, CI takes the one that asks more: the whole terminal's hangup, a second SIGTERM.
CONTAINED = {"smartbatch stop", "SIGTERM", "SIGTERM to every process", "SIGHUP"}
"""Each is a part of another way, so is left to `make soak`."""
WAYS_TO_STOP: dict[str, Callable[[Served], None]] = {
    "smartbatch stop": _by_command,
    "smartbatch stop, twice": _by_command_twice,
    "SIGTERM": lambda server: server.process.terminate(),
    "SIGTERM, twice": _by_sigterm_twice,
    "SIGTERM to every process": _by_sigterm_to_all,
    "SIGINT": lambda server: server.process.send_signal(signal.SIGINT),
    "SIGHUP": lambda server: server.process.send_signal(signal.SIGHUP),
    "the terminal is closed": _by_closing_the_terminal,
    "systemd's order": _as_systemd_does,
}
