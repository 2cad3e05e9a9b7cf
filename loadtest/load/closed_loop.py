"""One closed-loop run: Locust in processes of its own, watched until it ends, is interrupted, or the server is gone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path

from smartbatch.server.ports import free_ports
from smartbatch_load.account.counters import ServerLatency, latency_between
from smartbatch_load.account.monitor import Monitor
from smartbatch_load.account.records import RecordReader, Request, Tick
from smartbatch_load.account.series import ServerSample
from smartbatch_load.load import answers, solo
from smartbatch_load.load.config import LoadConfig, user_class_name
from smartbatch_load.load.interrupt import Interrupt, Interrupted
from smartbatch_load.load.processes import ProcessGroup
from smartbatch_load.load.target import Target

LOADTEST = Path(__file__).resolve().parents[1]
STOP_TIMEOUT_S = 60
"""How long answers still on their way when the load ends are waited for."""
INTERRUPT_GRACE_S = 2.0
POLL_S = 0.25


class Ending(Enum):
    """Why a run ended."""

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    SERVER_GONE = "server gone"
    GENERATOR_FAILED = "load generator failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedLoopRun:
    """What was recorded of a run, however it ended."""

    ending: Ending
    message: str
    """What a user should know about the ending; empty for a completed run."""
    start_unix_s: float
    """When the first request was sent."""
    requests: list[Request]
    ticks: list[Tick]
    samples: list[ServerSample]
    cpu_percents: list[list[float]]
    server_latency: ServerLatency | None

    @property
    def elapsed_s(self) -> float:
        """From the first request sent to the last one ended."""
        return max((r.end_unix_s for r in self.requests), default=self.start_unix_s) - self.start_unix_s


def default_processes() -> int:
    """Generator processes: a quarter of the cores, since the server wants the rest; one below four cores."""
    return max(1, (os.cpu_count() or 1) // 4)


def fetch_answers(config: LoadConfig, target: Target, folder: Path, interrupt: Interrupt) -> LoadConfig:
    """Ask for each payload's answer alone, and keep the answers for the generator.

    Raises:
        SoloError: the server does not answer the payloads properly.
    """
    found: dict[str, answers.Expected] = {}
    for source in config.payload.sources:
        for payload in config.payload.read(source):
            ask = partial(
                solo.fetch,
                target.inference_url,
                target.model,
                [payload],
                timeout_s=config.timeout_s,
            )
            found |= interrupt.watch(ask)
    path = folder / "answers.json"
    path.write_bytes(answers.to_json(found))
    return replace(config, answers_file=str(path))


def run_closed_loop(
    config: LoadConfig,
    target: Target,
    folder: Path,
    interrupt: Interrupt,
    *,
    processes: int = 1,
    on_progress: Callable[[RecordReader], None] = lambda _: None,
) -> ClosedLoopRun:
    """Run Locust over the config's steps.

    Args:
        config: with steps, and with the answers that `fetch_answers` adds.
        target: the server under test.
        folder: fresh folder for the raw records.
        interrupt: what ends the run early.
        processes: generator processes.
        on_progress: called four times a second with what is recorded so far.
    """
    assert config.steps
    assert config.answers_file
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, model=target.model, record_dir=str(folder))
    reader = RecordReader(folder)
    log = folder / "locust.log"
    monitor = Monitor(target, folder)
    monitor.settle()
    group = ProcessGroup(
        _locust_command(config, target.inference_url, processes),
        env=_locust_env(config),
        cwd=folder,
        log=log,
    )
    launched_unix_s = time.time()
    ending, message = Ending.COMPLETED, ""
    grace_s = INTERRUPT_GRACE_S
    try:
        monitor.start(group.cpu_percents)
        while group.poll() is None:
            interrupt.sleep(POLL_S)
            reader.read()
            on_progress(reader)
            if monitor.death:
                ending, message = Ending.SERVER_GONE, monitor.death
                break
    except Interrupted as signal:
        ending, message = Ending.INTERRUPTED, f"interrupted by {signal}"
    finally:
        group.stop(grace_s)
        monitor.stop()
    if ending is Ending.COMPLETED:
        monitor.settle()
    reader.read()
    if ending is Ending.COMPLETED and group.poll() != 0:
        ending = Ending.GENERATOR_FAILED
        message = f"Locust ended with status {group.poll()}; its log is {log}: {_last_line(log)}"
    latency = None
    if monitor.first is not None and monitor.last is not None:
        latency = latency_between(monitor.first, monitor.last, target.model)
    return ClosedLoopRun(
        ending=ending,
        message=message,
        start_unix_s=min((r.start_unix_s for r in reader.requests), default=launched_unix_s),
        requests=sorted(reader.requests, key=lambda r: r.end_unix_s),
        ticks=reader.ticks,
        samples=monitor.samples,
        cpu_percents=monitor.cpu_percents,
        server_latency=latency,
    )


def _locust_command(config: LoadConfig, host: str, processes: int) -> list[str]:
    command = [sys.executable, "-m", "locust", "-f", f"{LOADTEST / 'locustfile.py'},{LOADTEST / 'stepfile.py'}"]
    command += ["--host", host, "--headless", "--only-summary", "--loglevel", "WARNING"]
    command += ["--stop-timeout", str(STOP_TIMEOUT_S), "--exit-code-on-error", "0"]
    if processes > 1:
        port = str(free_ports(1)[0])  # so that two runs on one machine do not meet
        command += ["--processes", str(processes), "--master-bind-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    return command + [user_class_name(source) for source in config.payload.sources]


def _locust_env(config: LoadConfig) -> Mapping[str, str]:
    """This process's environment, less what Locust would take for options of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
    return kept | config.to_env() | {"PYTHONUNBUFFERED": "1"}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it is empty"
