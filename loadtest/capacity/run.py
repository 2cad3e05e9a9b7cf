"""`smartbatch capacity`: the highest rate of arrivals that keeps its latency objective."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from smartbatch.errors import SmartBatchError
from smartbatch_load.account.machine import Machine, describe_machine
from smartbatch_load.capacity.files import Rung, Verdict, judge_rung, write_capacity
from smartbatch_load.capacity.knee import KneeSearch
from smartbatch_load.load import solo
from smartbatch_load.load.answers import Expected
from smartbatch_load.load.choice import payload_for
from smartbatch_load.load.config import authorization
from smartbatch_load.load.interrupt import Interrupt, Interrupted
from smartbatch_load.load.openloop import Load, Volley, arrivals, fire
from smartbatch_load.load.payloads import Payload, PayloadSettings
from smartbatch_load.load.target import ServerUnderTest, Target, given_or_own_target, served_as, settle


@dataclass(frozen=True, kw_only=True, slots=True)
class CapacitySettings:
    """One search for the knee."""

    out: Path
    server: ServerUnderTest
    payload: PayloadSettings
    """Of one format: a mix has no latency of its own."""
    slo_p95_ms: float = 250.0
    duration_s: float = 10.0
    """At each rate."""
    warmup_s: float = 25.0
    start_rate: float | None = None
    """None begins at a quarter of what one request at a time would reach."""
    max_rate: float = 100_000.0
    tolerance: float = 0.05
    poisson: bool = False
    """Random arrivals instead of evenly spaced ones."""
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.slo_p95_ms <= 0:
            raise ValueError(f"--slo-p95-ms must be above 0, got {self.slo_p95_ms:g}")

    def as_dict(self) -> dict[str, Any]:
        """What makes a search what it is, as plain data."""
        hidden = {"out", "server", "payload", "store", "batching", "formats", "bodies"}
        told = asdict(self) | asdict(self.server) | self.payload.as_dict() | {"format": self.payload.sources[0]}
        return {key: value for key, value in told.items() if key not in hidden}


@dataclass(frozen=True, kw_only=True, slots=True)
class CapacityOutcome:
    """What a search ended with."""

    verdict: Verdict
    rungs: list[Rung]


def run_capacity(settings: CapacitySettings, console: Console) -> CapacityOutcome:
    """Search, writing the files anew after each rate.

    Raises:
        Interrupted: before the first rate was measured.
        SmartBatchError: the server or the model does not come up, or nothing could be measured.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    with Interrupt() as interrupt, ExitStack() as stack:
        target = given_or_own_target(settings.server, settings.out / "server", interrupt, stack, console.print)
        settings = replace(settings, payload=payload_for(settings.payload, target, settings.out, console.print))
        search = _Search(settings, target, console, interrupt)
        try:
            search.run()
        except Interrupted as signal:
            if not search.rungs:
                raise
            search.ended, search.message = "interrupted", f"interrupted by {signal}"
        if not search.rungs:
            raise SmartBatchError(search.message or "no rate was measured")
        return CapacityOutcome(verdict=search.write(), rungs=search.rungs)


class _Search:
    """The state of a search that runs."""

    def __init__(self, settings: CapacitySettings, target: Target, console: Console, interrupt: Interrupt) -> None:
        self.rungs: list[Rung] = []
        self.ended, self.message = "running", ""
        self._settings, self._target, self._console, self._interrupt = settings, target, console, interrupt
        self._machine: Machine = describe_machine()
        self._knee: KneeSearch | None = None
        self._served: dict[str, str] = {}

    def run(self) -> None:
        settings, interrupt = self._settings, self._interrupt
        self._console.print("Asking for the right answers, one payload at a time")
        payloads, expected, solo_s = self._ask()
        self._served = served_as(self._target)
        load = Load(
            url=f"{self._target.inference_url}/predictions/{self._target.model}",
            payloads=payloads,
            expected=expected,
            headers=authorization(),
            timeout_s=settings.timeout_s,
        )
        start = min(settings.start_rate or 0.25 / solo_s, settings.max_rate)
        if settings.warmup_s > 0:
            self._console.print(f"Warm-up: {settings.warmup_s:g} s at {start:.3g} requests/s")
            self._fire(load, start, settings.warmup_s)
            interrupt.sleep(0)
        self._knee = KneeSearch(start=start, tolerance=settings.tolerance, max_rate=settings.max_rate)
        raw = (settings.out / "requests.jsonl").open("w", encoding="utf-8")
        with raw:
            while (rate := self._knee.next_rate()) is not None:
                interrupt.sleep(0)
                volley = self._fire(load, rate, settings.duration_s)
                for shot in volley.shots:
                    raw.write(json.dumps({"rate": rate} | asdict(shot)) + "\n")
                raw.flush()
                if volley.interrupted:
                    interrupt.sleep(0)
                if not self._target.answers_ping():
                    self.ended = "server gone"
                    self.message = "the server is gone: nothing listens any more; the rates before are saved"
                    return
                rung = judge_rung(rate, volley, settings.slo_p95_ms / 1000)
                self.rungs.append(rung)
                self._console.print(_line(rung), markup=False)
                self._knee.record(rate, rung.ok)
                self.write()
                if rung.generator_limited:
                    self.ended = "generator limited"
                    self.message = "the search stopped where the generator, not the server, was the limit"
                    return
        self.ended = "completed"

    def write(self) -> Verdict:
        settings, knee = self._settings, self._knee
        verdict = Verdict(
            knee=None if knee is None else knee.highest_held,
            bounded=knee is not None and knee.is_bounded,
            confirmed=self.ended == "completed",
            ended=self.ended,
            message=self.message,
        )
        told = settings.as_dict() | {"served": self._served}
        write_capacity(settings.out, self.rungs, verdict, told, self._machine)
        return verdict

    def _ask(self) -> tuple[list[Payload], dict[str, Expected], float]:
        """Payloads, their answers alone, and how long one takes alone once the model is loaded; seconds."""
        settings, target = self._settings, self._target
        payloads = settings.payload.read(settings.payload.sources[0])

        def ask() -> dict[str, Expected]:
            return solo.fetch(target.inference_url, target.model, payloads, timeout_s=settings.timeout_s)

        expected = self._interrupt.watch(ask)
        settle(target, self._interrupt)
        began = time.perf_counter()
        self._interrupt.watch(ask)
        return payloads, expected, (time.perf_counter() - began) / len(payloads)

    def _fire(self, load: Load, rate: float, duration_s: float) -> Volley:
        settings = self._settings
        times = list(arrivals(rate, duration_s, poisson=settings.poisson, seed=settings.payload.seed))
        # With p95 at the objective about rate x objective requests are outstanding (Little); thrice that is overload.
        most = 64 + math.ceil(3 * rate * settings.slo_p95_ms / 1000)
        return fire(load, times, max_outstanding=most, interrupt=self._interrupt)


def _line(rung: Rung) -> str:
    p95 = "–" if rung.p95_s is None else f"{1000 * rung.p95_s:.0f} ms"
    verdict = "held" if rung.ok else f"failed: {rung.reason}"
    return f"{rung.rate:8.1f} requests/s  p95 {p95:>8}  {rung.errors} errors  {verdict}"
