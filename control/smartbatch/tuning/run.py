"""Try settings on the running server: each is a retune, so no request of others is lost meanwhile."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from smartbatch.doctor.evidence import Evidence, Observer
from smartbatch.doctor.gain import observe
from smartbatch.doctor.probe import Probe
from smartbatch.errors import SmartBatchError
from smartbatch.remote.status import describe_workers, wait_measured
from smartbatch.retune.run import RetuneSettings, retune
from smartbatch.retune.targets import RetuneTarget
from smartbatch.simulation.batches import Outcome
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.fit import Observed, counted, fit, scaled
from smartbatch.simulation.load import ClosedLoop, Load
from smartbatch.tuning.search import FREE, ONCE_MORE, TO_TIME_BATCHES, Measured, Objective, Search, Trial

MAY_CHANGE = {"micro_batch": "auto", "compile": "auto", "precision": "bf16"}
"""Of the handler's configuration, what may be tried if it is allowed, and as what. With `compile: auto` a machine that
is faster in fp32 computes in that."""
SECONDS = 8.0
"""That a setting is looked at, unless it is said otherwise: of six, with their retunes, a minute and a half."""
SETTLE_S = 1.5
"""After a switch: clients find the new version, and the queue its level."""


class NothingSeenError(SmartBatchError):
    """Too few answers to learn anything from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSettings:
    """What is wanted, and how long each step may take."""

    model: str
    objective: Objective
    seconds: float = SECONDS
    """That a setting is measured for."""
    allowed: frozenset[str] = frozenset({"micro_batch"})
    """Of `MAY_CHANGE`, what a trial may change: the first leaves answers as they are, the last does not."""
    apply: bool = False
    """Leave the best setting behind; else the present one comes back."""
    ready_timeout_s: float = 120.0
    drain_timeout_s: float = 120.0


@dataclass(slots=True)
class Tuning:
    """What was found."""

    settings: TuneSettings
    load: Load
    trials: list[Trial] = field(default_factory=list)
    search: Search | None = None
    out_of_reach: tuple[Setting, Outcome] | None = None
    """The setting that comes nearest to an objective that none can meet, and what is predicted of it."""
    interrupted: bool = False
    serving: Setting | None = None
    """What the server has now."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """How the load's requests ended, retunes included."""
    seconds: float = 0.0

    @property
    def best(self) -> Trial | None:
        """Of the trials."""
        return None if self.search is None or not self.trials else self.search.best()


def tune(target: RetuneTarget, settings: TuneSettings, probe: Probe, say: Callable[[str], None]) -> Tuning:
    """Search, try, and leave the best or the present setting behind; a Ctrl-C ends it with what is known by then.

    Args:
        target: of the retunes.
        settings: what is wanted.
        probe: the load; it is entered and left here.
        say: told each step.

    Raises:
        NothingSeenError: nothing was answered.
        SmartBatchError: as retune has it.
    """
    return _Run(target, settings, probe, say).run()


class _Run:
    def __init__(self, target: RetuneTarget, settings: TuneSettings, probe: Probe, say: Callable[[str], None]) -> None:
        self._target, self._settings, self._probe, self._say = target, settings, probe, say
        self._found = Tuning(settings, probe.load)
        self._at: Setting | None = None
        self._pace_s: float | None = None
        """Of the machine when the present setting was looked at."""
        self._registered: dict[str, str] = {}
        """The handler's configuration as it was, of what is allowed to change."""

    def run(self) -> Tuning:
        began = time.monotonic()
        with self._probe:
            try:
                self._search()
            except KeyboardInterrupt:
                self._found.interrupted = True
                self._say("interrupted: keeping what is known")
            finally:
                self._leave()
        self._found.outcomes = dict(self._probe.outcomes)
        self._found.seconds = time.monotonic() - began
        return self._found

    def _search(self) -> None:
        self._wait_measured()
        evidence = self._watch()
        observed = observe(evidence)
        if observed is None:
            raise NothingSeenError(
                f"{self._settings.model} answered too little in {self._settings.seconds:g} s to learn from, or its "
                "handler is not SmartBatch's: `smartbatch doctor` says more"
            )
        now = self._at = observed.setting
        load, objective = self._probe.load, self._settings.objective
        self._pace_s = evidence.pace_s
        measured = self._measured(evidence)
        told = {key: evidence.config(key) for key in self._settings.allowed}
        self._registered = {key: str(value) for key, value in told.items() if value is not None}
        held = {key: MAY_CHANGE[key] for key, value in self._registered.items() if value != MAY_CHANGE[key]}
        search = Search(
            now,
            self._costs(observed, measured),
            load,
            objective,
            evidence.server.cores,
            self._found.trials,
            free=tuple(sorted(held.items())),
        )
        self._found.search = search
        self._record(now, "as it is", measured)
        self._found.out_of_reach = search.out_of_reach()
        while self._found.out_of_reach is None and (following := search.next_setting()) is not None:
            setting, why = following
            self._probe.pause()  # new workers measure their forward first, which is slow on cores that are busy
            self._switch(setting)
            self._probe.begin_again()
            time.sleep(SETTLE_S)
            evidence = self._watch()
            self._record(setting, why, self._measured(evidence))
            self._learn(evidence)

    def _learn(self, evidence: Evidence) -> None:
        """What the first setting could not tell: of a forward that is free, or of more items than were ever timed.

        And of the best so far: what is near to it, and may be better, is told best by what that was seen to do.
        """
        search = self._found.search
        assert search is not None
        trial = search.trials[-1]
        is_best = trial.why != ONCE_MORE and search.best().setting == trial.setting
        tells = trial.why in (FREE, TO_TIME_BATCHES) or is_best
        if not tells or (observed := observe(evidence)) is None:
            return
        costs = self._costs(observed, trial.measured)
        if trial.why != FREE:
            is_free = evidence.config("micro_batch") in ("auto", None)
            search.learn(with_larger(costs, search.costs, is_free=is_free), search.handler)
        elif any(evidence.config(key) not in (None, value) for key, value in trial.setting.handler):
            self._say(f"the server's environment beats {spelled_handler(trial.setting)}, so it is left as it is")
            search.trials[-1] = dataclasses.replace(trial, setting=dataclasses.replace(trial.setting, handler=()))
        elif search.is_better_free():
            search.learn(costs, trial.setting.handler)
        if trial.why in (FREE, TO_TIME_BATCHES):
            self._found.out_of_reach = search.out_of_reach()

    def _costs(self, observed: Observed, measured: Measured) -> Costs:
        # What arrives faster than it is answered piles up: then no steady load explains what was seen.
        is_borne = self._settings.objective.bears(measured.requests_per_s)
        costs = fit(observed, self._probe.load) if is_borne else counted(observed)
        return dataclasses.replace(
            scaled(costs, measured.pace),
            edge_s=costs.edge_s * measured.pace,
            edge_cpu_s=costs.edge_cpu_s * measured.pace,
        )

    def _measured(self, evidence: Evidence) -> Measured:
        view, pace = evidence.view, evidence.times_at(self._pace_s)
        if view.p50_s is None or view.p95_s is None or view.avg_batch_size is None:
            raise NothingSeenError(f"nothing was answered in {evidence.seconds:.0f} s")
        good = view.rps - view.errors_per_s
        return Measured(
            # Requests that wait for nobody come as often at any pace.
            requests_per_s=good / pace if isinstance(self._probe.load, ClosedLoop) else good,
            p50_s=view.p50_s * pace,
            p95_s=view.p95_s * pace,
            avg_batch_size=view.avg_batch_size,
            pace=pace,
        )

    def _record(self, setting: Setting, why: str, measured: Measured) -> None:
        search = self._found.search
        assert search is not None
        search.record(setting, why, measured)
        self._say(
            f"{len(search.trials)}: {spelled(setting)}, {why}: {measured.requests_per_s:.1f} requests/s, "
            f"p95 {1000 * measured.p95_s:.0f} ms; best so far {spelled(search.best().setting)}"
        )

    def _leave(self) -> None:
        """The best setting, if it is wanted; else the one that was there."""
        search = self._found.search
        if search is None or not search.trials:
            return
        self._switch(search.best().setting if self._settings.apply else search.now)
        self._found.serving = self._at

    def _switch(self, setting: Setting) -> None:
        if setting == self._at:
            return
        wanted = RetuneSettings(
            model=self._settings.model,
            batch_size=setting.batch_size,
            max_batch_delay_ms=max(1, setting.max_batch_delay_ms),
            workers=setting.workers,
            overrides=self._overrides(setting),
            ready_timeout_s=self._settings.ready_timeout_s,
            drain_timeout_s=self._settings.drain_timeout_s,
        )
        retune(self._target.endpoints, wanted, self._target.model_store, self._target.canary)
        self._at = setting

    def _overrides(self, setting: Setting) -> dict[str, str]:
        """Of the handler's configuration, what differs from what is served."""
        at = self._at or setting
        wanted, has = dict(setting.handler), dict(at.handler)
        changed = {
            key: wanted.get(key, self._registered[key])
            for key in wanted.keys() | has
            if wanted.get(key) != has.get(key)
        }
        return changed if setting.threads == at.threads else changed | _threads(setting)

    def _wait_measured(self) -> None:
        """Pause the load until workers that were just started know how they compute fastest."""
        with self._target.endpoints.management() as client:
            status = client.describe(self._settings.model)
            if any(worker.get("measuring") for worker in describe_workers(client, status).values()):
                self._say("its workers measure how they compute fastest: waiting for that")
                self._probe.pause()
                wait_measured(client, status, self._settings.ready_timeout_s)
                self._probe.begin_again()
                time.sleep(SETTLE_S)

    def _watch(self) -> Evidence:
        observer = Observer(self._target.endpoints, self._settings.model, self._probe.num_clients)
        (evidence,) = observer.watch(self._settings.seconds, paced=True)
        return evidence


def with_larger(costs: Costs, known: Costs, *, is_free: bool) -> Costs:
    """With forwards that were timed before alone, as they would be if they were as much faster as the others are now.

    Args:
        costs: of workers whose batches may be small, and with them the forwards that they have timed.
        known: of the same model, before.
        is_free: each worker finds out how many items are the fastest at a time, as others would of larger batches.
    """
    both = costs.forward_s.keys() & known.forward_s.keys()
    faster = costs.forward_s[max(both)] / known.forward_s[max(both)] if both else 1.0
    forward_s = {items: faster * seconds for items, seconds in known.forward_s.items()} | dict(costs.forward_s)
    fastest = min(forward_s, key=lambda items: (forward_s[items] / items, -items))
    return dataclasses.replace(costs, forward_s=forward_s, micro_batch=fastest if is_free else costs.micro_batch)


def spelled(setting: Setting) -> str:
    """For people."""
    batches = f"batches of {setting.batch_size} within {setting.max_batch_delay_ms} ms on {setting.workers} worker(s)"
    return f"{batches}, {spelled_handler(setting)}" if setting.handler else batches


def spelled_handler(setting: Setting) -> str:
    """What differs from the registered configuration."""
    return " ".join(f"{key}={value}" for key, value in setting.handler)


def _threads(setting: Setting) -> dict[str, str]:
    return {"threads": "auto" if setting.threads is None else str(setting.threads)}
