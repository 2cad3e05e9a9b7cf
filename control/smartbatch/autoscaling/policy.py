"""More workers or fewer: what was seen and what the model says, to one decision. Pure: time is told.

up      the objective is missed, or what waits will miss it: as many as the model wants for the rate and for what
        has piled up; one more where the model sees no need and it is missed all the same
down    only to the most that the model wanted, for a rate a quarter higher, at any moment of the cool-down
stay    everything else: after a change until it shows, while workers start, where more would not help
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from smartbatch.autoscaling.planning import Bounds, Planner

CATCH_UP_S = 5.0
"""What has piled up is to be answered within this."""
ROOM_UP, ROOM_DOWN = 1.1, 1.25
"""Rates are planned for with so much to spare; more of it before workers go, so that they are not back at once."""
PATIENCE_S = 5.0
"""The model has been wrong where the objective is still missed by then."""
SETTLE_S = 2.0
"""Until a change shows in the figures."""
CONFIRMED = 2
"""Looks in a row that miss the objective; one may be a hiccup. A queue too long to be answered in time is none."""
ALIKE = 0.9
"""Of a rate that was too much for some number of workers: another one is as much from there on."""
REMEMBERED = 10
"""Cool-downs for which a number of workers that was too few for a rate is not tried again for that rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One look."""

    at_s: float
    """On any clock that only goes on."""
    workers: int
    """That there should be."""
    ready: int
    """Of these."""
    now_per_s: float
    """Requests that came, of the last moments."""
    lately_per_s: float
    """The same over some seconds."""
    answered_per_s: float
    queued: float
    """Requests that wait."""
    p95_s: float | None
    """Of those that were answered since the last change; None where none were."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers there should be, and why."""

    workers: int
    why: str
    is_breached: bool
    is_passing: bool = False
    """A breach that what was done already should end: nothing that somebody should do something about."""


@dataclass
class Policy:
    """Told each look, and each change that was made.

    Args:
        planner: the model of the server.
        objective_s: for p95.
        bounds: fewest and most workers.
        cool_down_s: fewer workers must have been enough for so long before there are fewer.
    """

    planner: Planner
    objective_s: float
    bounds: Bounds
    cool_down_s: float
    _wanted: deque[tuple[float, int]] = field(init=False, default_factory=deque)
    """When, and how many the model wanted."""
    _changed_s: float = field(init=False, default=-math.inf)
    _missed_since_s: float | None = field(init=False, default=None)
    _num_missed: int = field(init=False, default=0)
    _is_late: bool = field(init=False, default=False)
    """What waits cannot be answered in time."""
    _least_queued: float = field(init=False, default=math.inf)
    """Since the objective was first missed."""
    _shrank_s: float = field(init=False, default=-math.inf)
    """When the queue was last shorter than ever since."""
    _too_few: dict[int, tuple[float, float]] = field(init=False, default_factory=dict)
    """By workers: the rate that they were too few for, and when."""

    def changed(self, at_s: float) -> None:
        """The number of workers was changed, or could not be: what was seen until now says nothing of what comes."""
        self._changed_s = at_s
        self._wanted.clear()
        self._calm()

    def decide(self, seen: Seen) -> Decision:
        """What this look asks for."""
        is_breached = self._look(seen)
        now = seen.workers
        within = self.bounds.clip(now)
        if within != now:
            return Decision(within, f"outside of {self.bounds.fewest} to {self.bounds.most}", is_breached)
        self._note_wanted(seen, is_breached)
        if not is_breached:
            return self._down(seen)  # also of workers that never come up
        if seen.ready < now:
            return Decision(now, f"{now - seen.ready} of {now} workers are not READY yet", True)
        return self._up(seen)

    @property
    def looks_closer(self) -> bool:
        """Whether the next look should be soon: a queue has only begun to grow, and how fast is not known yet."""
        return self._is_late and self._num_missed == 1

    def _look(self, seen: Seen) -> bool:
        """Whether the objective is missed, and for how long by now."""
        is_late = self._is_late = self.will_wait_s(seen) > self.objective_s
        is_missed = seen.p95_s is not None and seen.p95_s > self.objective_s
        if not (is_late or is_missed):
            self._calm()
            return False
        self._num_missed += 1
        if self._missed_since_s is None:
            self._missed_since_s = seen.at_s
        if seen.queued < self._least_queued:
            self._least_queued, self._shrank_s = seen.queued, seen.at_s
        return is_late or self._num_missed >= CONFIRMED

    def will_wait_s(self, seen: Seen) -> float:
        """How long the last of those that wait now will."""
        return seen.queued / seen.answered_per_s if seen.answered_per_s > 0 else math.inf if seen.queued else 0.0

    def _calm(self) -> None:
        self._missed_since_s, self._num_missed = None, 0
        self._least_queued, self._shrank_s = math.inf, -math.inf

    def _note_wanted(self, seen: Seen, is_breached: bool) -> None:
        plan = self.planner.plan(ROOM_DOWN * seen.lately_per_s)
        # Where nothing is known, or requests wait too long, there is no telling that fewer were enough. What is late
        # though nobody waits, as on a busy machine, is not late for want of workers.
        is_short = is_breached and seen.queued > 0
        wanted = seen.workers if plan is None or is_short else max(plan.workers, self._least(seen))
        self._wanted.append((seen.at_s, wanted))
        while len(self._wanted) > 1 and self._wanted[1][0] <= seen.at_s - self.cool_down_s:
            self._wanted.popleft()

    def _least(self, seen: Seen) -> int:
        """By what has been tried."""
        self._too_few = {
            workers: (rate, at_s)
            for workers, (rate, at_s) in self._too_few.items()
            if seen.at_s - at_s <= REMEMBERED * self.cool_down_s
        }
        most = max((count for count, (rate, _) in self._too_few.items() if seen.lately_per_s > ALIKE * rate), default=0)
        return self.bounds.clip(most + 1)

    def _up(self, seen: Seen) -> Decision:
        now = seen.workers
        if self.looks_closer:
            return Decision(now, "", True)
        if seen.at_s - self._changed_s < SETTLE_S:
            return Decision(now, "the last change has not shown yet", True, is_passing=True)
        missed = self._spelled(seen)
        if now == self.bounds.most:
            return Decision(now, f"{missed}, and {now} workers are the most allowed", True)
        rate = ROOM_UP * max(seen.now_per_s, seen.lately_per_s) + seen.queued / CATCH_UP_S
        plan = self.planner.plan(rate)
        if plan is not None and plan.workers > now:
            return Decision(plan.workers, f"{missed}; the model wants {plan.workers} for {rate:.0f}/s", True)
        assert self._missed_since_s is not None
        began_s = max(self._missed_since_s, self._changed_s + SETTLE_S, self._shrank_s)
        if seen.at_s - began_s < PATIENCE_S:
            return Decision(now, f"{missed}, which {now} should mend", True, is_passing=True)
        if not self.planner.helps(rate, now):
            return Decision(now, f"{missed}, and by the model more workers would not help", True)
        self._too_few[now] = (seen.lately_per_s, seen.at_s)
        return Decision(now + 1, f"{missed} for {PATIENCE_S:g} s: {now} were too few, whatever the model says", True)

    def _down(self, seen: Seen) -> Decision:
        now, wanted = seen.workers, max(count for _, count in self._wanted)
        is_covered = seen.at_s - self._wanted[0][0] >= self.cool_down_s
        if wanted >= now:
            return Decision(now, "", False)
        if not is_covered or self._missed_since_s is not None:
            return Decision(now, f"{wanted} might do; cooling down", False)
        enough = f"{wanted} would have been enough for {self.cool_down_s:g} s, with a quarter to spare"
        return Decision(wanted, f"{enough}; {seen.lately_per_s:.1f}/s come", False)

    def _spelled(self, seen: Seen) -> str:
        p95 = "nothing was answered" if seen.p95_s is None else f"p95 is {1000 * seen.p95_s:.0f} ms"
        return f"{p95}, {seen.queued:.0f} wait"
