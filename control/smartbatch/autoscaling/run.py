"""Look, decide, change, until it is ended; every change is one of `smartbatch scale`, which loses no request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from smartbatch.autoscaling.planning import Bounds, Planner
from smartbatch.autoscaling.policy import Decision, Policy, Seen
from smartbatch.autoscaling.watching import Watch
from smartbatch.errors import DeadlineError, NotRunningError, SmartBatchError, UsageError
from smartbatch.retune.scaling import ScaleTarget, scale
from smartbatch.retune.store import RetuneStore

CLOSER = 0.4
"""Of the interval, until a second look at a queue that begins to grow: a look that began before it knows no rate."""
UNREACHABLE_S = 20.0
"""A server that does not answer for so long is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoscaleSettings:
    """What is wanted, within which bounds.

    Raises:
        UsageError: bounds that hold nothing, or times below their least.
    """

    objective_s: float
    """For p95, as the server counts it."""
    min_workers: int = 1
    max_workers: int | None = None
    """None: the server's cores."""
    interval_s: float = 1.0
    """Between two looks."""
    cool_down_s: float = 30.0
    """Fewer workers must have been enough for so long before there are fewer."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    seconds: float | None = None
    """To go on; None: until it is ended."""

    def __post_init__(self) -> None:
        if self.min_workers < 1:
            raise UsageError(
                f"--min-workers must be at least 1, got {self.min_workers}: with none, requests are refused"
            )
        if self.max_workers is not None and self.max_workers < self.min_workers:
            raise UsageError(
                f"--max-workers must be at least --min-workers, {self.min_workers}, got {self.max_workers}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something to tell: a change, a change that would be made, one that failed, or why there is none."""

    kind: str
    """start, up, down, stay, failed or end."""
    seconds: float
    """Since the start."""
    workers: int
    """Before."""
    wanted: int
    why: str
    seen: Seen | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def text(self) -> str:
        """One line for people."""
        what = f"{self.workers} → {self.wanted} workers" if self.wanted != self.workers else f"{self.workers} worker(s)"
        rate = "" if self.seen is None else f", {self.seen.now_per_s:.1f} requests/s"
        return f"{self.seconds:8.1f} s  {self.kind:<6} {what}{rate}: {self.why}"


@dataclass
class Autoscaler:
    """One model's.

    Args:
        target: how its number of workers is changed, `version` None.
        settings: what is wanted.
        tell: of each event.
        ended: set from outside to end it; a change that goes on then is finished first.
    """

    target: ScaleTarget
    settings: AutoscaleSettings
    tell: Callable[[Event], None]
    ended: threading.Event = field(default_factory=threading.Event)
    breached_s: float = field(init=False, default=0.0)
    """For how long the objective was missed."""
    changes: list[tuple[int, int]] = field(init=False, default_factory=list)
    """Workers before and after each."""
    _began_s: float = field(init=False, default=0.0)
    _told: str = field(init=False, default="")
    _held_until_s: float = field(init=False, default=0.0)
    """After a change that failed."""

    def run(self) -> None:
        """Go on until it is ended, or `settings.seconds` are over.

        Raises:
            UsageError: the model store or the server is not what this takes.
            NotRunningError: the server does not answer any more.
            SmartBatchError: as `smartbatch scale` has it, where the model is gone.
        """
        self._began_s = time.monotonic()
        watch = Watch(self.target.endpoints, self.target.model)
        watch.start()
        self._check_store()
        bounds = self._bounds(watch)
        planner = Planner(self.settings.objective_s, bounds, max(1, watch.queue_capacity))
        policy = Policy(planner, self.settings.objective_s, bounds, self.settings.cool_down_s)
        now = watch.num_workers
        dry = "; nothing is changed" if self.settings.dry_run else ""
        goal = f"p95 within {1000 * self.settings.objective_s:g} ms on {bounds.fewest} to {bounds.most} workers{dry}"
        self._tell("start", now, now, goal)
        answered_s = time.monotonic()
        while not self._is_over(CLOSER if policy.looks_closer else 1.0):
            try:
                seen, observed = watch.look()
            except (NotRunningError, DeadlineError):
                if time.monotonic() - answered_s > UNREACHABLE_S:
                    raise
                continue
            passed_s, answered_s = time.monotonic() - answered_s, time.monotonic()
            if observed is not None:
                planner.learn(observed)
            decision = policy.decide(seen)
            self.breached_s += passed_s if decision.is_breached else 0.0
            if self._follow(watch, seen, decision):
                policy.changed(time.monotonic())
                answered_s = time.monotonic()
        self._tell("end", watch.num_workers, watch.num_workers, self._summary())

    def _is_over(self, share: float) -> bool:
        """Wait a share of the interval."""
        left_s = share * self.settings.interval_s
        if self.settings.seconds is not None:
            left_s = min(left_s, self._began_s + self.settings.seconds - time.monotonic())
        return left_s <= 0 or self.ended.wait(left_s)

    def _follow(self, watch: Watch, seen: Seen, decision: Decision) -> bool:
        """Do what was decided; whether that was tried."""
        now, wanted = seen.workers, decision.workers
        if wanted == now:
            # Of a state that lasts it is told once.
            if decision.is_breached and decision.why not in ("", self._told) and not decision.is_passing:
                self._tell("stay", now, now, decision.why, seen)
            self._told = decision.why if decision.is_breached else ""
            return False
        kind = "up" if wanted > now else "down"
        if self.settings.dry_run:
            if self._told != f"{kind} {wanted}":
                self._tell(kind, now, wanted, f"would be: {decision.why}", seen)
            self._told = f"{kind} {wanted}"
            return False
        if time.monotonic() < self._held_until_s:
            return False
        self._tell(kind, now, wanted, decision.why, seen)
        try:
            scale(self.target, wanted)
        except SmartBatchError as error:
            self._held_until_s = time.monotonic() + self.settings.cool_down_s
            self._tell(
                "failed", now, wanted, f"{error}; tried again in {self.settings.cool_down_s:g} s at the earliest"
            )
        else:
            self.changes.append((now, wanted))
        watch.changed()
        return True

    def _bounds(self, watch: Watch) -> Bounds:
        most = self.settings.max_workers or watch.cores
        if most is None:
            raise UsageError("how many cores the server has is not known here: name --max-workers")
        return Bounds(self.settings.min_workers, max(most, self.settings.min_workers))

    def _check_store(self) -> None:
        """Fewer workers are a copy with fewer: say now that there can be none, not when the load is gone.

        Raises:
            UsageError: the store is not named, cannot be written, or lacks the archive.
        """
        if self.target.model_store is None:
            raise UsageError("for a server not started from here, --model-store must name its model store")
        with self.target.endpoints.management() as client:
            RetuneStore(self.target.model_store).find(client.describe(self.target.model).url)

    def _tell(self, kind: str, workers: int, wanted: int, why: str, seen: Seen | None = None) -> None:
        seconds = round(time.monotonic() - self._began_s, 2)
        self.tell(Event(kind=kind, seconds=seconds, workers=workers, wanted=wanted, why=why, seen=seen))

    def _summary(self) -> str:
        ups = sum(after > before for before, after in self.changes)
        return f"{ups} times more, {len(self.changes) - ups} times fewer; p95 was over it for {self.breached_s:.0f} s"
