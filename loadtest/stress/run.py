"""`smartbatch stress`: rise to many users step by step, and show what the server made of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from smartbatch.errors import SmartBatchError
from smartbatch_load.account.progress import LoadProgress
from smartbatch_load.load.choice import payload_for
from smartbatch_load.load.closed_loop import ClosedLoopRun, Ending, default_processes, fetch_answers, run_closed_loop
from smartbatch_load.load.config import LoadConfig
from smartbatch_load.load.interrupt import Interrupt, Interrupted
from smartbatch_load.load.payloads import PayloadSettings
from smartbatch_load.load.shapes import Step
from smartbatch_load.load.target import ServerUnderTest, given_or_own_target, served_as, settle
from smartbatch_load.stress.files import write_results


class NothingMeasuredError(SmartBatchError):
    """The run ended before the first request did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StressSettings:
    """One stress run."""

    out: Path
    server: ServerUnderTest
    payload: PayloadSettings
    steps: tuple[Step, ...]
    processes: int | None = None
    """Of the generator; None: as many as this machine bears."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StressOutcome:
    """What a command prints and exits by."""

    run: ClosedLoopRun
    lines: list[str]
    num_failures: int


def run_stress(settings: StressSettings, console: Console) -> StressOutcome:
    """Run, and write everything to `settings.out`, however the run ends.

    Raises:
        Interrupted: before any load was sent.
        NothingMeasuredError: not one request ended.
        SmartBatchError: the server cannot be started or reached.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    raw = settings.out / "raw"
    raw.mkdir(exist_ok=True)
    for leftover in raw.iterdir():
        leftover.unlink()
    with Interrupt() as interrupt:
        with ExitStack() as stack:
            target = given_or_own_target(settings.server, settings.out / "server", interrupt, stack, console.print)
            payload = payload_for(settings.payload, target, settings.out, console.print)
            config = LoadConfig(model=settings.server.model, payload=payload, steps=settings.steps).from_anywhere()
            console.print("Asking for the right answers, one payload at a time")
            config = fetch_answers(config, target, raw, interrupt)
            settle(target, interrupt)
            served = served_as(target)
            console.print(f"Load on {target.inference_url}: up to {max(s.users for s in config.steps)} users")
            duration_s = config.steps[-1].until_s
            with LoadProgress(console, "stress", duration_s) as progress:
                run = run_closed_loop(
                    config,
                    target,
                    raw,
                    interrupt,
                    processes=settings.processes or default_processes(),
                    on_progress=progress.update,
                )
        if not run.requests and run.ending is Ending.INTERRUPTED:
            raise Interrupted(interrupt.signal_name)
        if not run.requests:
            raise NothingMeasuredError(run.message or "no request ended within the test")
        lines, num_failures = write_results(settings.out, run, config, served)
    return StressOutcome(run=run, lines=lines, num_failures=num_failures)
