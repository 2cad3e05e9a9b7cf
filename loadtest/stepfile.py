"""The step shape, for headless runs: `locust -f loadtest/locustfile.py,loadtest/stepfile.py --headless`.

A file of its own, because Locust's web UI offers no user count once a shape is loaded.
"""

from __future__ import annotations

from locust import LoadTestShape
from smartbatch_load.load.config import LoadConfig
from smartbatch_load.load.shapes import even_steps, users_at


class StepShape(LoadTestShape):
    """Rises to the configured users step by step; 0 to 200 in 30 s unless configured."""

    steps = LoadConfig.from_env().steps or tuple(even_steps(200, 30.0, 5))

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many may start a second: a step is climbed within one second."""
        users = users_at(self.steps, self.get_run_time())  # type: ignore[no-untyped-call]
        return None if users is None else (users, float(max(users, 10)))
