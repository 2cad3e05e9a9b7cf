"""`smartbatch study`: what each setting gives on this machine, measured in interleaved rounds."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from smartbatch.errors import SmartBatchError
from smartbatch_load.account.machine import describe_machine
from smartbatch_load.account.progress import LoadProgress
from smartbatch_load.load.closed_loop import (
    ClosedLoopRun,
    Ending,
    default_processes,
    fetch_answers,
    run_closed_loop,
)
from smartbatch_load.load.config import LoadConfig
from smartbatch_load.load.interrupt import Interrupt, Interrupted
from smartbatch_load.load.payloads import PayloadSettings
from smartbatch_load.load.shapes import Step
from smartbatch_load.load.target import ServerUnderTest, Target, ensure_archive, register, running_server, settle
from smartbatch_load.study.files import write_study
from smartbatch_load.study.grid import Grid, Setting
from smartbatch_load.study.rows import Round, Row, measure


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySettings:
    """One study.

    Raises:
        ValueError: no round, no user, or a point that no server can have.
    """

    out: Path
    server: ServerUnderTest
    """As a new one is warmed up; batching and precision of each point are the grid's."""
    payload: PayloadSettings
    """Of which each point sends one format."""
    grid: Grid
    duration_s: float = 10.0
    """Measured window of each point."""
    warmup_s: float = 3.0
    """Load before each window."""
    jvm_warmup_s: float = 25.0
    """Load on each new server before the first point: its JVM spends that long compiling."""
    rounds: int = 3
    users: int = 64
    processes: int | None = None
    """Of the generator; None: as many as this machine bears."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.users < 1:
            raise ValueError(f"rounds and users must be at least 1, got {self.rounds} and {self.users}")
        for setting in self.grid.settings():
            self.server_for(setting)

    def server_for(self, setting: Setting) -> ServerUnderTest:
        """The server as one point has it."""
        return replace(self.server, batching=setting.batching, precision=setting.override)

    def load_config(self, format_name: str, seconds: float) -> LoadConfig:
        """What Locust is told for one point."""
        steps = (Step(seconds, self.users),)
        return LoadConfig(model=self.server.model, payload=self.payload.only(format_name), steps=steps).from_anywhere()

    def as_dict(self) -> dict[str, Any]:
        """What makes a study what it is, as plain data."""
        told = asdict(self) | {"model": self.server.model} | self.payload.as_dict() | {"grid": asdict(self.grid)}
        hidden = {"out", "server", "payload", "formats"}
        return {key: value for key, value in told.items() if key not in hidden}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOutcome:
    """What a study ended with."""

    ending: Ending
    message: str
    rows: list[Row]


def run_study(settings: StudySettings, console: Console) -> StudyOutcome:
    """Measure every point, writing the files anew after each.

    Raises:
        Interrupted: before the first point was measured.
        SmartBatchError: a server or the model does not come up.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(settings.out / "raw", ignore_errors=True)
    with Interrupt() as interrupt, ExitStack() as stack:
        study = _Study(settings, console, interrupt, stack)
        try:
            study.run()
        except Interrupted as signal:
            if not study.rounds:
                raise
            study.ending, study.message = Ending.INTERRUPTED, f"interrupted by {signal}"
        if not study.rounds:
            if study.ending is Ending.INTERRUPTED:
                raise Interrupted(interrupt.signal_name)
            raise SmartBatchError(study.message or "no point was measured")
        rows = study.write()
    return StudyOutcome(ending=study.ending, message=study.message, rows=rows)


class _Study:
    """The state of a study that runs."""

    def __init__(self, settings: StudySettings, console: Console, interrupt: Interrupt, stack: ExitStack) -> None:
        self.rounds: list[Round] = []
        self.ending, self.message = Ending.COMPLETED, ""
        self._settings, self._console, self._interrupt, self._stack = settings, console, interrupt, stack
        self._machine = describe_machine()
        self._targets: dict[str, Target] = {}
        self._served_precision: str | None = None

    def run(self) -> None:
        settings = self._settings
        archive = ensure_archive(settings.server.model, settings.server.store, self._interrupt, self._console.print)
        for precision in settings.grid.precisions:
            self._targets[precision] = self._warm_server(precision, archive)
            if self.ending is not Ending.COMPLETED:
                return
        for number, setting in settings.grid.schedule(settings.rounds):
            title = f"round {number}/{settings.rounds}, {_describe(setting)}"
            run = self._point(setting, archive, title, settings.warmup_s + settings.duration_s)
            measured = measure(number, setting, run, settings.warmup_s, settings.duration_s)
            if run.ending is not Ending.COMPLETED:
                self.ending, self.message = run.ending, run.message
                return  # a window cut short is no measurement
            if measured is None:
                self.ending = Ending.GENERATOR_FAILED
                self.message = f"{title}: no correct answer in {settings.duration_s:g} s"
                return
            self.rounds.append(measured)
            self._console.print(f"{title}: {measured.rps:.1f} req/s, p95 {1000 * measured.p95_s:.0f} ms", markup=False)
            self.write()

    def write(self) -> list[Row]:
        settings = self._settings
        told = settings.as_dict() | {"served_precision": self._served_precision}
        return write_study(
            settings.out,
            self.rounds,
            settings.grid,
            told,
            self._machine,
            "running" if self._unfinished() else self.ending.value,
            self.message,
        )

    def _unfinished(self) -> bool:
        wanted = len(self._settings.grid.settings()) * self._settings.rounds
        return self.ending is Ending.COMPLETED and len(self.rounds) < wanted

    def _warm_server(self, precision: str, archive: str) -> Target:
        settings = self._settings
        self._console.print(f"Starting a server ({precision} precision), then {settings.jvm_warmup_s:g} s of warm-up")
        setting = replace(settings.grid.warm_up(), precision=precision)
        run_dir = settings.out.resolve() / f"server-{setting.server_name}"
        target = self._stack.enter_context(running_server(run_dir, settings.server_for(setting), self._interrupt))
        self._targets[precision] = target
        if settings.jvm_warmup_s > 0:
            run = self._point(setting, archive, "warm-up", settings.jvm_warmup_s)
            if run.ending is not Ending.COMPLETED:
                self.ending, self.message = run.ending, run.message
        return target

    def _point(self, setting: Setting, archive: str, title: str, seconds: float) -> ClosedLoopRun:
        """Register the model with these settings, send load, unregister it."""
        settings, target = self._settings, self._targets[setting.precision]
        folder = settings.out / "raw" / title.replace("/", " of ").replace(", ", "-").replace(" ", "_")
        folder = folder.with_name(f"{folder.name}-{setting.server_name}")
        folder.mkdir(parents=True, exist_ok=True)
        register(target, archive, setting.batching, self._interrupt)
        config = fetch_answers(settings.load_config(setting.format, seconds), target, folder, self._interrupt)
        settle(target, self._interrupt)
        self._note_precision(target)
        with LoadProgress(self._console, title, seconds) as progress:
            run = run_closed_loop(
                config,
                target,
                folder.resolve(),
                self._interrupt,
                processes=settings.processes or default_processes(),
                on_progress=progress.update,
            )
        if run.ending is Ending.COMPLETED:
            assert target.management is not None
            target.management.unregister(target.model)
        return run

    def _note_precision(self, target: Target) -> None:
        """Once: what the archive's own precision is, from the worker."""
        if self._served_precision is None and target.management is not None:
            about = target.management.describe(target.model, customized=True).customized or {}
            self._served_precision = str(about.get("precision", ""))


def _describe(setting: Setting) -> str:
    return (
        f"batch {setting.batch_size}, {setting.precision}, {setting.format}, "
        f"{setting.workers} workers, {setting.max_delay_ms} ms"
    )
