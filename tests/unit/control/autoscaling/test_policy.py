"""The policy before a server that is a sum: what comes, what n workers answer, and what waits between them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from smartbatch.autoscaling.planning import Bounds, Plan, Planner
from smartbatch.autoscaling.policy import PATIENCE_S, Policy, Seen
from smartbatch.autoscaling.run import AutoscaleSettings
from smartbatch.errors import UsageError
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.fit import Observed

OBJECTIVE_S = 0.3
BATCH_S, BATCH = 0.1, 4
"""A worker answers 40 requests a second."""
START_S = 2
"""Until a further worker answers."""
COOL_DOWN_S = 20.0


def observed(rate: float, workers: int = 1) -> Observed:
    """Of a model that waits for its answers, so that workers are in nobody's way."""
    return Observed(
        setting=Setting(batch_size=BATCH, max_batch_delay_ms=5, workers=workers),
        cores=2,
        requests_per_s=rate,
        avg_batch_size=float(BATCH),
        items=1.0,
        avg_forward_size=float(BATCH),
        mean_s=BATCH_S,
        p50_s=BATCH_S,
        p95_s=BATCH_S,
        queue_s=0.0,
        stage_s={"decode": 0.0, "stack": 0.0, "forward": BATCH_S, "encode": 0.0},
        measured_forward_s={1: BATCH_S, BATCH: BATCH_S},
        measured_threads=1,
        micro_batch=BATCH,
        worker_cpu_s=0.0001,
        edge_cpu_s=0.0001,
        waits=0.99,
    )


@dataclass
class Server:
    """A second a step."""

    workers: int = 1
    per_worker: float = BATCH / BATCH_S
    queued: float = 0.0
    starting: list[int] = field(default_factory=list)
    """Seconds until each of the workers that are not READY is."""

    def second(self, at_s: float, rate: float, lately: float) -> Seen:
        self.starting = [left - 1 for left in self.starting if left > 1]
        ready = self.workers - len(self.starting)
        can = ready * self.per_worker
        waited_s = self.queued / can
        answered = min(can, self.queued + rate)
        self.queued = max(0.0, self.queued + rate - answered)
        return Seen(
            at_s=at_s,
            workers=self.workers,
            ready=ready,
            now_per_s=rate,
            lately_per_s=lately,
            answered_per_s=answered,
            queued=self.queued,
            p95_s=BATCH_S + waited_s if answered else None,
        )

    def scale(self, workers: int) -> None:
        self.starting += [START_S] * max(0, workers - self.workers)
        self.workers = workers


@dataclass
class Course:
    """What happened."""

    workers: list[int] = field(default_factory=list)
    breached: list[bool] = field(default_factory=list)

    @property
    def turns(self) -> int:
        """How often it went the other way."""
        ways = [b > a for a, b in itertools.pairwise(self.workers) if a != b]
        return sum(a != b for a, b in itertools.pairwise(ways))


def policy_of(planner: Planner, bounds: Bounds) -> Policy:
    return Policy(planner, OBJECTIVE_S, bounds, COOL_DOWN_S)


def served(rate: Callable[[int], float], seconds: int, server: Server, most: int = 8) -> Course:
    bounds = Bounds(1, most)
    planner = Planner(OBJECTIVE_S, bounds)
    policy = policy_of(planner, bounds)
    course = Course()
    for at in range(seconds):
        lately = sum(rate(max(0, at - ago)) for ago in range(8)) / 8
        seen = server.second(at, rate(at), lately)
        if rate(at):
            planner.learn(observed(rate(at), server.workers))
        decision = policy.decide(seen)
        assert decision.why or decision.workers == seen.workers
        course.workers.append(seen.workers)
        course.breached.append(seen.p95_s is not None and seen.p95_s > OBJECTIVE_S)
        if decision.workers != seen.workers:
            server.scale(decision.workers)
            policy.changed(at)
    return course


def step(at: int) -> float:
    return 130.0 if 30 <= at < 100 else 13.0


def test_ten_times_the_load_and_back() -> None:
    course = served(step, 170, Server())
    assert sum(course.breached) <= 15
    assert course.turns <= 1
    assert max(course.workers) >= 4
    assert course.workers[-1] == 1


def test_a_load_at_the_edge_is_no_reason_to_go_up_and_down() -> None:
    course = served(lambda at: 38.0 if at % 20 < 10 else 30.0, 120, Server())
    assert course.turns <= 1


def test_the_bounds_hold() -> None:
    assert max(served(step, 100, Server(), most=2).workers) == 2
    bounds = Bounds(2, 3)
    policy = policy_of(Planner(OBJECTIVE_S, bounds), bounds)
    for workers, wanted in ((1, 2), (5, 3)):
        seen = Server(workers=workers).second(0.0, 1.0, 1.0)
        assert policy.decide(seen).workers == wanted


def test_where_the_model_is_wrong_one_more_is_tried_and_what_was_too_few_is_remembered() -> None:
    # The model takes a worker for three times as fast as it is.
    course = served(lambda at: 30.0 if at < 150 else 1.0, 300, Server(per_worker=20))
    assert max(course.workers[20:150]) == 2
    assert course.workers[149] == 2, "not taken away where one has been too few"
    assert course.workers[-1] == 1
    assert course.turns == 1


def test_no_more_workers_where_the_cores_are_the_limit() -> None:
    bounds = Bounds(1, 4)
    planner = Planner(OBJECTIVE_S, bounds)
    planner.costs = Costs(cores=1, forward_s={1: 0.1, 4: 0.4}, micro_batch=4)
    planner._setting = Setting(batch_size=4, max_batch_delay_ms=5, workers=1)
    policy = policy_of(planner, bounds)
    server = Server(per_worker=10)
    decisions = [policy.decide(server.second(at, 40.0, 40.0)) for at in range(int(PATIENCE_S) + 4)]
    assert {decision.workers for decision in decisions} == {1}
    assert "would not help" in decisions[-1].why
    assert decisions[-1].is_breached


def test_a_hiccup_is_none_and_workers_that_start_are_waited_for() -> None:
    bounds = Bounds(1, 4)
    policy = policy_of(Planner(OBJECTIVE_S, bounds), bounds)

    def seen(at_s: float, p95_s: float, ready: int = 1) -> Seen:
        return Seen(
            at_s=at_s,
            workers=1,
            ready=ready,
            now_per_s=5.0,
            lately_per_s=5.0,
            answered_per_s=5.0,
            queued=0.0,
            p95_s=p95_s,
        )

    assert not policy.decide(seen(0, 1.0)).is_breached
    assert not policy.decide(seen(1, 0.1)).is_breached
    assert not policy.decide(seen(2, 1.0)).is_breached
    assert policy.decide(seen(3, 1.0)).is_breached
    assert policy.decide(seen(4, 1.0, ready=0)).workers == 1


def test_late_answers_that_nobody_waited_for_keep_no_workers() -> None:
    bounds = Bounds(1, 4)
    planner = Planner(OBJECTIVE_S, bounds)
    planner.learn(observed(5.0))
    wanted = {}
    for queued in (0.0, 9.0):
        policy = policy_of(planner, bounds)
        for at in range(int(COOL_DOWN_S) + 2):
            is_busy = at in (8, 9, 10)
            seen = dataclasses.replace(
                Server(workers=3).second(at, 5.0, 5.0),
                p95_s=1.0 if is_busy else 0.1,
                queued=queued if is_busy else 0.0,
            )
            wanted[queued] = policy.decide(seen).workers
    assert wanted == {0.0: 1, 9.0: 3}


def test_workers_that_never_come_up_are_taken_away_again() -> None:
    bounds = Bounds(1, 4)
    planner = Planner(OBJECTIVE_S, bounds)
    planner.learn(observed(5.0))
    policy = policy_of(planner, bounds)
    server = Server(workers=3, starting=[1000, 1000])
    decisions = [policy.decide(server.second(at, 5.0, 5.0)).workers for at in range(int(COOL_DOWN_S) + 2)]
    assert decisions[:5] == [3] * 5
    assert decisions[-1] == 1


def test_the_fewest_that_keep_the_objective() -> None:
    planner = Planner(OBJECTIVE_S, Bounds(1, 8))
    assert planner.plan(50.0) is None, "nothing is known yet"
    assert planner.plan(0.0) == Plan(workers=1, p95_s=0.0, is_met=True)
    planner.learn(observed(20.0))
    wanted = []
    for rate in (5.0, 20.0, 60.0, 130.0):
        plan = planner.plan(rate)
        assert plan is not None
        assert plan.is_met
        assert plan.workers * BATCH / BATCH_S > rate
        wanted.append(plan.workers)
    assert wanted == sorted(wanted)
    assert wanted[-1] in (4, 5)
    far = Planner(0.001, Bounds(1, 8))
    far.learn(observed(20.0))
    unmet = far.plan(10.0)
    assert unmet is not None
    assert not unmet.is_met


@pytest.mark.parametrize(("fewest", "most"), [(0, 2), (3, 2)])
def test_bounds_that_hold_nothing_are_refused(fewest: int, most: int) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        AutoscaleSettings(objective_s=OBJECTIVE_S, min_workers=fewest, max_workers=most)


@pytest.mark.parametrize("rate", [21.0, 40.0])
def test_costs_are_read_again_where_the_load_is_another(rate: float) -> None:
    planner = Planner(OBJECTIVE_S, Bounds(1, 2))
    planner.learn(observed(20.0))
    before = planner.costs
    planner.learn(observed(rate))
    assert (planner.costs is before) == (rate < 25)
