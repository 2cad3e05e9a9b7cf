"""What `smartbatch serve` does once its flags are read."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from smartbatch.errors import DeadlineError, ModelNotReadyError, NotRunningError, SmartBatchError, StartupError
from smartbatch.remote.state import read_state
from smartbatch.server.announce import announcement
from smartbatch.server.archives import lacks
from smartbatch.server.batching import Batching
from smartbatch.server.forking.imports import imports_of
from smartbatch.server.jvm.classes import written_meanwhile
from smartbatch.server.ports import free_ports
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings, default_run_dir
from smartbatch.server.start_checks import check_free_space
from smartbatch.server.starting import start_server
from smartbatch.server.stopping.drain import DrainReport
from smartbatch.server.stopping.stop_request import asked_grace, write_outcome
from smartbatch.server.stopping.stop_signals import StopRequested, StopSignals

_POLL_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServePlan:
    """What to serve, where and how."""

    settings: ServerSettings
    models: tuple[str, ...]
    """Archive names in the model store, with or without .mar."""
    batching: Batching
    grace_s: float
    ready_timeout_s: float

    def __post_init__(self) -> None:
        for model in self.models:
            self.archive(model)

    def archive(self, model: str) -> str:
        """The archive's or folder's name in the model store.

        Raises:
            ModelNotReadyError: when there is neither.
        """
        for name in (f"{model}.mar", model):
            if (self.settings.model_store / name).exists():
                return name
        raise ModelNotReadyError(
            f"{self.settings.model_store / model}.mar is missing: `smartbatch archive --model {model}` builds one of "
            "torchvision's models, and `smartbatch archive --help` says how any other is built"
        )


def serve_until_stopped(plan: ServePlan) -> None:
    """Start, register, wait until ready, say how to call it; then wait for a signal and stop gracefully.

    Raises:
        StartupError: when TorchServe does not start.
        SmartBatchError: when it stops by itself later.
    """
    console = Console(stderr=True)
    signals = StopSignals()
    try:
        with _step(console, "Starting TorchServe"):
            archives = (plan.settings.model_store / plan.archive(model) for model in plan.models)
            settings = dataclasses.replace(plan.settings, imports=imports_of(archives))
            server = start_server(settings, drains_on_sigterm=True, while_waiting=signals.raise_if_asked)
    except StopRequested:
        return
    try:
        try:
            signals.begin_to_interrupt()
            _bring_up(plan, server, console)
        finally:  # what ends a server that did not come up is not to be interrupted
            signals.interrupts = False
        with written_meanwhile(server.state, {**os.environ, **plan.settings.env}):
            while server.is_alive and not signals.stop.wait(_POLL_S):
                pass
    except StopRequested:
        pass
    except NotRunningError:
        if server.is_alive:
            server.stop(grace_s=0)
            raise
    except BaseException:
        server.stop(grace_s=0)
        raise
    if not server.is_alive:
        server.stop(grace_s=0)
        raise SmartBatchError(f"TorchServe stopped by itself: see {server.run_dir / 'logs'}")
    _stop(server, plan.grace_s, console, signals.at_once)


def _stop(server: RunningServer, grace_s: float, console: Console, at_once: threading.Event) -> None:
    """Drain and end; `at_once`, or a further `smartbatch stop` with a shorter grace, cuts it short.

    Raises:
        DeadlineError: when the grace was not enough, or was cut short.
    """
    asked_s = asked_grace(server.state)
    grace_s = grace_s if asked_s is None else asked_s
    _say(console, f"Stopping: accepted requests have {grace_s:g} s to be answered (Ctrl-C again: stop at once)")
    reports: list[DrainReport | None] = []
    draining = threading.Thread(target=lambda: reports.append(server.stop(grace_s)))
    draining.start()
    shortest_s, cut_off_at = grace_s, math.inf
    while draining.is_alive():
        asked_s = asked_grace(server.state)
        if asked_s is not None and asked_s < shortest_s:  # a later stop is in more of a hurry
            shortest_s, cut_off_at = asked_s, time.monotonic() + asked_s
        if at_once.is_set() or time.monotonic() >= cut_off_at:
            server.end()
        draining.join(_POLL_S)
    report = reports[0] if reports else None
    try:
        write_outcome(server.state, None if report is None else dataclasses.asdict(report))
    except OSError as e:
        _say(console, f"how the stop went could not be written: {e}")
    if report is not None and not report.complete:
        raise DeadlineError(f"stopped: {report.remark}")
    _say(console, "Stopped" + (f": {report.remark}" if report and report.remark else ""))


def _bring_up(plan: ServePlan, server: RunningServer, console: Console) -> None:
    with server.management() as client:
        for model in plan.models:  # all before any is ready: from then on /readyz is to tell of every one
            client.register(
                plan.archive(model),
                _served_name(model),
                batch_size=plan.batching.batch_size,
                max_batch_delay_ms=plan.batching.max_batch_delay_ms,
                workers=plan.batching.workers,
            )
        for model in plan.models:
            if (remark := lacks(plan.settings.model_store / plan.archive(model))) is not None:
                _say(console, f"note: {remark}")
            with _step(console, f"Starting {plan.batching.workers} worker(s) of {model}"):
                client.wait_ready(_served_name(model), plan.ready_timeout_s)
        for model in plan.models:
            _say(console, announcement(server.state, _served_name(model), plan.batching, client))
        if client.frontend().get("page"):
            _say(console, f"In a browser: {server.state.inference_url}/ui/")
    _say(console, f"Logs: {server.run_dir / 'logs'}. Stop with Ctrl-C or `smartbatch stop`.")
    server.mark_ready()  # only now: `serve --detach` prints what has been said when it sees this


def start_detached(plan: ServePlan, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Run the same command in the background and return when its models are ready.

    Raises:
        StartupError: with what it printed, when it ends before.
        UsageError: on a full disk.
    """
    if plan.settings.inference_port == 0:
        port = free_ports(1)[0]  # so that the folder is known here
        argv = [*argv, "--inference-port", str(port)]
        plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, inference_port=port))
    run_dir = (plan.settings.run_dir or default_run_dir(plan.settings.inference_port)).absolute()
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    run_dir.mkdir(mode=0o700, exist_ok=True)
    (run_dir / "logs").mkdir(exist_ok=True)
    check_free_space([run_dir])  # the process in the background could not say so
    output = run_dir / "logs" / "serve.log"
    with output.open("wb") as sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "smartbatch.cli", *argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=dict(env),
            start_new_session=True,
        )
    console = Console(stderr=True)
    with _step(console, "Starting in the background"):
        while not _is_ready(run_dir, child.pid):
            if child.poll() is not None:
                error = StartupError(_said(output) or f"it ended with exit code {child.returncode}")
                error.exit_code = child.returncode or StartupError.exit_code
                raise error
            time.sleep(_POLL_S)
    _say(console, _said(output))


def _served_name(model: str) -> str:
    return model.removesuffix(".mar")


def _say(console: Console, text: str) -> None:
    try:
        # Soft wrap: a line broken in the middle cannot be pasted.
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    except OSError:
        _let_go_of_terminal()


def _let_go_of_terminal() -> None:
    """Send what is still said nowhere: the terminal is closed, and writing to it must not end a stop half-way."""
    with Path(os.devnull).open("wb") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    """A spinner on a terminal, a line elsewhere."""
    if not console.is_terminal:
        _say(console, text)
        yield
        return
    status = console.status(text)
    status.start()
    try:
        yield
    finally:
        try:
            status.stop()
        except OSError:
            _let_go_of_terminal()


def _said(output: Path) -> str:
    """What the background process printed, less its progress."""
    lines = output.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.startswith("Starting ")).strip().removeprefix("smartbatch: ")


def _is_ready(run_dir: Path, supervisor_pid: int) -> bool:
    try:
        state = read_state(run_dir)
    except NotRunningError:
        return False
    return state.ready and state.supervisor_pid == supervisor_pid
