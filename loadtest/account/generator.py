"""Was the load generator itself the bottleneck?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smartbatch_load.account.records import Tick
from smartbatch_load.account.series import percentile

SATURATED_PERCENT = 90.0
"""Of one core: a Locust process is one thread."""
LAG_LIMIT_S = 0.1
"""An event loop that wakes later than this at every twentieth look was starved of CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorHealth:
    """What the generator needed."""

    processes: int
    cpu_mean_percent: float | None
    """Of the busiest process, percent of one core."""
    cpu_max_percent: float | None
    seconds_saturated: int
    lag_p95_s: float | None
    """How late its event loop woke."""

    @property
    def warning(self) -> str | None:
        """Why the figures may show the generator rather than the server; None where they do not."""
        if self.seconds_saturated >= 2:
            return (
                f"the load generator was saturated for {self.seconds_saturated} s (above "
                f"{SATURATED_PERCENT:.0f} % of a core): the server may be faster than shown; "
                "use more --processes, smaller bodies, or another machine for the load"
            )
        if self.lag_p95_s is not None and self.lag_p95_s > LAG_LIMIT_S:
            return (
                f"the load generator was starved of CPU (its event loop woke {1000 * self.lag_p95_s:.0f} ms "
                "late at the 95th percentile): latencies hold some of that wait; load from another machine"
            )
        return None


def judge_generator(cpu_percents: Sequence[Sequence[float]], ticks: Sequence[Tick]) -> GeneratorHealth:
    """Judge from the CPU of each process once a second, and from the lag of its event loop."""
    busiest = [max(second) for second in cpu_percents if second]
    loaded = sorted(tick.lag_s for tick in ticks if tick.users > 0)
    return GeneratorHealth(
        processes=len({tick.process for tick in ticks}),
        cpu_mean_percent=sum(busiest) / len(busiest) if busiest else None,
        cpu_max_percent=max(busiest, default=None),
        seconds_saturated=sum(1 for percent in busiest if percent > SATURATED_PERCENT),
        lag_p95_s=percentile(loaded, 0.95),
    )
