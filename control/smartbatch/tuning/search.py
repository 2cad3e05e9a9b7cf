"""Which setting to try next: the model of the server proposes, what was measured corrects it.

    1  the present setting, to which the model is fitted
       (where the handler's configuration holds the forward to less than is allowed: the same without that; and where
       batches are too small to tell what larger ones cost: one of those; to each it is fitted again)
    2  the best of all by the model
    3  the best that is unlike it, in case the model is wrong: another number of workers, or a batch of another kind
    4… the best by the model as corrected by what was measured, while that promises more than the best so far, or would,
       where nothing like it was tried, if the model errs
    …  of the two best, where chance may have told them apart, each once more; before what only might be better

An objective that the model puts out of reach is said to be so before anything is tried.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from smartbatch.simulation.batches import Outcome
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.fit import ERROR
from smartbatch.simulation.load import Load
from smartbatch.simulation.score import grid, score

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96)
DELAYS_MS = (1, 2, 4, 7, 10, 20, 40)
MOST_WORKERS = 4
MOST_TRIALS = 6
BORNE = 0.9
"""Of a rate, answers a second that say it is borne: chance arrivals differ by that much in some seconds."""
PAYS = 1.05
"""A longer delay is taken where it promises that much more: the model's clients come together as real ones do not."""
TELLING = 8
"""Items: where no forward of as many was ever timed, nobody knows what batches would gain."""
WORTH = 1.02
"""A trial is worth its seconds where it promises that much more than the best so far."""
DOUBT = 0.1
"""By how much one look of some seconds may be off: what would be the best if it was, is looked at again."""
MOST_LOOKS = 2
"""At one setting."""
NEW_ONES_FIRST = 4
"""So many are tried before a second look comes before a new one that only might be better."""
TO_TIME_BATCHES = "to time batches"
FREE = "the forward as it is measured"
ONCE_MORE = "once more"


@dataclass(frozen=True, slots=True)
class Objective:
    """As many requests a second as possible, or of a rate that is given the lowest p95; p95 within a limit, if any."""

    slo_p95_s: float | None = None
    rate: float | None = None
    """Requests a second that come whether or not they are answered; None: clients wait for their answers."""

    def is_met(self, requests_per_s: float, p95_s: float) -> bool:
        """Whether that latency is within the limit, and the rate is borne."""
        return self.bears(requests_per_s) and (self.slo_p95_s is None or p95_s <= self.slo_p95_s)

    def bears(self, requests_per_s: float) -> bool:
        """Whether so many answers are what came."""
        return self.rate is None or requests_per_s >= BORNE * self.rate

    def worth(self, requests_per_s: float, p95_s: float) -> float:
        """Above 0: the rate of what meets the limit, or the inverse of its p95; below 0: by how much it is missed."""
        if self.rate is not None and not self.bears(requests_per_s):
            return requests_per_s / self.rate - 2.0
        if self.slo_p95_s is not None and p95_s > self.slo_p95_s:
            return self.slo_p95_s / p95_s - 1.0
        return requests_per_s if self.rate is None else 1.0 / p95_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a setting did on the server; latency in seconds, as the server counts it.

    At the machine's pace when the present setting was looked at: from one look to the next it may differ by a fifth.
    """

    requests_per_s: float
    p50_s: float
    p95_s: float
    avg_batch_size: float
    pace: float = 1.0
    """Of the requests' time, what the pace made of it: `requests_per_s` times this were seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One setting, what the model said of it, and what it did."""

    setting: Setting
    why: str
    predicted: Outcome | None
    """None of the first: the model is fitted to that."""
    measured: Measured


def settings(now: Setting, cores: int | None) -> list[Setting]:
    """All that may be tried, the cores shared among the workers; of these as many as now where no cores are known."""
    workers = {now.workers} if cores is None else {now.workers, *range(1, min(cores, MOST_WORKERS) + 1)}
    return list(grid(SIZES, DELAYS_MS, sorted(workers)))


@dataclass
class Search:
    """Ask `next_setting`, try it, tell `record`; until there is none.

    Args:
        now: the present setting.
        costs: fitted to it.
        load: that is served.
        objective: what is wanted.
        cores: of the server; None where they are not known.
        free: of the handler's configuration, what would let its forward be chosen by measuring; nothing: it may be.
    """

    now: Setting
    costs: Costs
    load: Load
    objective: Objective
    cores: int | None
    trials: list[Trial] = field(default_factory=list)
    free: tuple[tuple[str, str], ...] = ()
    predicted: dict[Setting, Outcome] = field(init=False)
    handler: tuple[tuple[str, str], ...] = field(init=False)
    """That costs and predictions are of."""

    def __post_init__(self) -> None:
        self.learn(self.costs)

    def learn(self, costs: Costs, handler: tuple[tuple[str, str], ...] = ()) -> None:
        """Predict anew, by costs that are better known, of a handler that is configured so."""
        self.costs, self.handler = costs, handler
        now, *tried = (dataclasses.replace(one, handler=handler) for one in (self.now, *settings(self.now, self.cores)))
        scored = score(tried if now in tried else [now, *tried], self.load, self.costs)
        self.predicted = {one.setting: one.outcome for one in scored}

    def record(self, setting: Setting, why: str, measured: Measured) -> None:
        """What a trial found."""
        predicted = self.predicted.get(setting) if self.trials else None
        self.trials.append(Trial(setting=setting, why=why, predicted=predicted, measured=measured))

    def out_of_reach(self) -> tuple[Setting, Outcome] | None:
        """Where no setting can meet the objective, even if the model errs: the one that comes nearest."""
        objective = self.objective
        seen = (trial.measured for trial in self.trials)
        if self.is_blind or self._may_be_free or any(objective.is_met(one.requests_per_s, one.p95_s) for one in seen):
            return None
        bearing = {
            setting: outcome
            for setting, outcome in self.predicted.items()
            if objective.bears(outcome.requests_per_s * (1 + ERROR))
        }
        if not bearing:
            return max(self.predicted.items(), key=lambda item: item[1].requests_per_s)
        setting, outcome = min(bearing.items(), key=lambda item: item[1].p95_s)
        limit_s = math.inf if objective.slo_p95_s is None else objective.slo_p95_s
        return (setting, outcome) if outcome.p95_s * (1 - ERROR) > limit_s else None

    def best(self) -> Trial:
        """Of what was tried, each as it was at the mean; of those that are as good as it, what answers soonest."""
        most = self._best_worth()
        as_good = [trial for trial in self._tried() if self._worth(trial) >= _as_good_as(most)]
        return min(as_good, key=lambda trial: trial.measured.p95_s)

    def next_setting(self) -> tuple[Setting, str] | None:
        """What to try, and why; None where nothing promises more."""
        if not self.trials:
            return self.now, "as it is"
        if len(self.trials) >= MOST_TRIALS:
            return None
        new, num_tried = self._new_setting(), len(self._tried())
        if new is not None and (num_tried < NEW_ONES_FIRST or self._is_worth(new[0])):
            return new
        return self._once_more() or new

    def _new_setting(self) -> tuple[Setting, str] | None:
        tried = {trial.setting for trial in self.trials}
        left = [setting for setting in self.predicted if setting not in tried]
        if not left:
            return None
        if self._may_be_free:
            return dataclasses.replace(self.now, handler=self.free), FREE
        number = sum(trial.why not in (TO_TIME_BATCHES, FREE, ONCE_MORE) for trial in self.trials)
        if number == 1 and self.is_blind:
            # On as many workers as now: forwards are timed on as many threads as those that are known.
            telling = [one for one in left if one.batch_size >= TELLING and one.workers == self.now.workers]
            return self._first(telling), TO_TIME_BATCHES
        if number == 1:
            first = self._first(left)
            return (first, "best by the model") if self._is_worth(first) else self._unlike(left, self.now)
        if number == 2:
            other = self._unlike(left, self.trials[-1].setting)
            if other is not None:
                return other
        kinds = {(trial.setting.batch_size, trial.setting.workers) for trial in self.trials}
        least = _worth_a_trial(self._best_worth())

        def hoped(one: Setting) -> float:
            """If nothing like it was tried, what it would promise if the model errs."""
            return self._promise(one, 0.0 if (one.batch_size, one.workers) in kinds else ERROR)

        hopeful = [one for one in left if hoped(one) > least]
        return (self._first(hopeful), "best by the model, corrected") if hopeful else None

    def _once_more(self) -> tuple[Setting, str] | None:
        """Of the best and what would be better if a look was off, what was seen less often; None where that is clear.

        Of two that were seen as often, the one that is not served now: then both were served at the beginning and at
        the end.
        """
        best = self.best()
        others = [trial for trial in self._tried() if trial.setting != best.setting]
        if not others:
            return None
        rival = max(others, key=lambda trial: self._worth(trial, DOUBT))
        if self._worth(rival, DOUBT) <= self._worth(best):
            return None
        looks = Counter(trial.setting for trial in self.trials)
        now = self.trials[-1].setting
        setting = min((best.setting, rival.setting), key=lambda one: (looks[one], one == now))
        return None if looks[setting] >= MOST_LOOKS else (setting, ONCE_MORE)

    @property
    def is_blind(self) -> bool:
        """Only forwards of a few items were ever timed, and nothing was tried to mend that."""
        return max(self.costs.forward_s) < TELLING and all(trial.why != TO_TIME_BATCHES for trial in self.trials)

    @property
    def _may_be_free(self) -> bool:
        """The forward is held to less than it may, and nobody has tried it without."""
        return bool(self.free) and all(trial.why != FREE for trial in self.trials)

    def is_better_free(self) -> bool:
        """Whether the last trial, of the forward as it is measured, was worth it."""
        *before, last = map(self._worth, self.trials)
        return last > _worth_a_trial(max(before))

    def _unlike(self, left: Sequence[Setting], setting: Setting) -> tuple[Setting, str] | None:
        """The most promising that differs from a setting in kind; None where none could win even if the model errs."""
        others = [one for one in left if one.workers != setting.workers]
        if not others:
            others = [one for one in left if not 1 / 4 < one.batch_size / setting.batch_size < 4]
        if not others:
            return None
        found = self._first(others)
        if 0 < self._promise(found) * (1 + ERROR) < self._best_worth():
            return None
        return found, "unlike the others"

    def _first(self, settings: Iterable[Setting]) -> Setting:
        """Of the most promising, and what promises nearly as much, that with the shortest delay that is as good."""
        promises = {setting: self._promise(setting) for setting in settings}
        most = max(promises.values())

        def shortest(least: float, among: Iterable[Setting]) -> Setting:
            good = (setting for setting in among if promises[setting] >= least)
            return min(good, key=lambda setting: (setting.max_batch_delay_ms, -promises[setting]))

        first = shortest(_as_good_as(most), promises)
        alike = [one for one in promises if (one.batch_size, one.workers) == (first.batch_size, first.workers)]
        return shortest(_as_good_as(most, PAYS), alike)

    def _is_worth(self, setting: Setting) -> bool:
        return self._promise(setting) > _worth_a_trial(self._best_worth())

    def _best_worth(self) -> float:
        return max(map(self._worth, self._tried()))

    def _tried(self) -> list[Trial]:
        """One of each setting, measured at the mean of its looks."""
        looks: dict[Setting, list[Trial]] = {}
        for trial in self.trials:
            looks.setdefault(trial.setting, []).append(trial)
        return [
            dataclasses.replace(trials[0], measured=_mean([trial.measured for trial in trials]))
            for trials in looks.values()
        ]

    def _worth(self, trial: Trial, better: float = 0.0) -> float:
        """As it was seen, or if it is better than that by so much."""
        seen = trial.measured
        return self.objective.worth(seen.requests_per_s * (1 + better), seen.p95_s / (1 + better))

    def _promise(self, setting: Setting, better: float = 0.0) -> float:
        """What the model says of it, corrected by how far it was off where it was tried; or if it is better yet."""
        outcome = self.predicted[setting]
        rate = outcome.requests_per_s * self._off(setting, "requests_per_s") * (1 + better)
        p95_s = outcome.p95_s * self._off(setting, "p95_s") / (1 + better)
        # A little for the lower latency: of equal rates the one that answers sooner.
        return self.objective.worth(rate, p95_s) * (1.0 - 1e-3 * min(1.0, p95_s))

    def _off(self, setting: Setting, figure: str) -> float:
        """Measured ÷ predicted: of the trials with as many workers, or of all where there is none."""
        known = [trial for trial in self.trials if trial.setting in self.predicted]  # others are another handler's
        alike = [trial for trial in known if trial.setting.workers == setting.workers] or known
        ratios = list(_ratios(alike, self.predicted, figure))
        return statistics.geometric_mean(ratios) if ratios else 1.0


def _mean(looks: Sequence[Measured]) -> Measured:
    return Measured(
        **{
            figure.name: statistics.mean(getattr(look, figure.name) for look in looks)
            for figure in dataclasses.fields(Measured)
        }
    )


def _worth_a_trial(best: float) -> float:
    """What must be exceeded where so much is the best so far."""
    return best * WORTH if best > 0 else best


def _as_good_as(best: float, times: float = WORTH) -> float:
    """What is no worse than that as far as anybody can tell, or by that factor at most."""
    return best / times if best > 0 else best


def _ratios(trials: Sequence[Trial], predicted: dict[Setting, Outcome], figure: str) -> Iterator[float]:
    for trial in trials:
        said = float(getattr(predicted[trial.setting], figure))
        found = float(getattr(trial.measured, figure))
        if said > 0 and found > 0:
            yield found / said
