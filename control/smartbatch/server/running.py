"""One running TorchServe: where it is, whether it lives, when its models are ready, and how it ends."""

from __future__ import annotations

import dataclasses
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

from smartbatch.remote.process_identity import wait_gone
from smartbatch.remote.state import ServerState, read_state
from smartbatch.server.jvm.command import END_SIGNAL
from smartbatch.server.leftovers import clean_up

if TYPE_CHECKING:
    from smartbatch.remote.management import ManagementClient
    from smartbatch.server.stopping.drain import DrainReport

_EXIT_TIMEOUT_S = 30.0


class RunningServer:
    """One running TorchServe; end it with `stop`, or use it as a context manager."""

    def __init__(self, state: ServerState, process: subprocess.Popen[bytes] | None = None) -> None:
        self.state = state
        self._process = process
        """The JVM where it is our own child; None for a server another process started."""

    @classmethod
    def attach(cls, run_dir: Path) -> RunningServer:
        """The server another process started in `run_dir`.

        Raises:
            NotRunningError: when there is no state file.
        """
        return cls(read_state(run_dir))

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        return self.state.pid

    @property
    def run_dir(self) -> Path:
        """Its folder: state file, logs, generated config, keys."""
        return Path(self.state.run_dir)

    @property
    def inference_url(self) -> str:
        """Where clients send requests."""
        return self.state.inference_url

    @property
    def management_url(self) -> str:
        """Where models are registered, scaled and described."""
        return self.state.management_url

    @property
    def metrics_url(self) -> str:
        """The Prometheus endpoint, path included."""
        return self.state.metrics_url

    @property
    def is_alive(self) -> bool:
        """Whether the JVM runs."""
        if self._process is not None:
            return self._process.poll() is None
        return self.state.jvm() is not None

    def management(self) -> ManagementClient:
        """A client for the management API, with this server's token and certificate."""
        from smartbatch.remote.management import ManagementClient

        return ManagementClient.for_state(self.state)

    def wait_ready(self, model: str | None = None, timeout_s: float = 300.0) -> None:
        """Wait until all workers of `model` (None: of every registered model) are READY.

        Raises:
            DeadlineError: when they are not READY in time.
            ModelNotReadyError: when the server or its model goes away meanwhile.
        """
        with self.management() as client:
            for name in [model] if model else [m.model_name for m in client.models()]:
                client.wait_ready(name, timeout_s=timeout_s)

    def mark_ready(self) -> None:
        """Record in the state file that the models asked for have been ready."""
        self.state = dataclasses.replace(self.state, ready=True)
        self.state.write()

    def stop(self, grace_s: float = 30.0) -> DrainReport | None:
        """Answer what was accepted, refuse what comes after, then end the process and all its workers.

        Args:
            grace_s: the longest time for the answers; 0 ends the server at once.

        Returns:
            How the drain went; None where there was none.
        """
        report = None
        try:
            if self.is_alive and grace_s > 0:
                from smartbatch.server.stopping.drain import drain

                report = drain(self.state, grace_s)
        finally:
            self.end()
        return report

    def end(self) -> None:
        """End the process and all its workers now, whatever they are doing."""
        jvm = self.state.jvm()
        processes = [] if jvm is None else [jvm, *_children(jvm)]
        if jvm is not None:
            with suppress(psutil.NoSuchProcess):
                jvm.send_signal(END_SIGNAL)
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_TIMEOUT_S)
        alive = wait_gone(processes, _EXIT_TIMEOUT_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_gone(alive, _EXIT_TIMEOUT_S)
        if self._process is not None:
            self._process.wait()
        clean_up(self.state)

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(grace_s=0 if kind else 30.0)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []
