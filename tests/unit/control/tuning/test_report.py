"""What a tuning says to people."""

from __future__ import annotations

import pytest
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.load import ClosedLoop
from smartbatch.tuning.report import as_dict, text
from smartbatch.tuning.run import TuneSettings, Tuning
from smartbatch.tuning.search import Measured, Objective, Search, Trial

NOW = Setting(batch_size=8, max_batch_delay_ms=10, workers=1)


@pytest.mark.parametrize(("paces", "is_told"), [((1.0, 1.02), False), ((1.0, 0.8, 1.1), True)])
def test_a_machine_whose_pace_changed_is_told_of(paces: tuple[float, ...], is_told: bool) -> None:
    load, objective = ClosedLoop(8), Objective()
    trials = [
        Trial(
            setting=NOW,
            why="",
            predicted=None,
            measured=Measured(requests_per_s=50.0, p50_s=0.1, p95_s=0.2, avg_batch_size=8.0, pace=pace),
        )
        for pace in paces
    ]
    found = Tuning(TuneSettings(model="m", objective=objective), load, trials)
    found.search = Search(NOW, Costs(cores=1, forward_s={1: 0.01}, micro_batch=1), load, objective, 1, trials)
    said = "the machine's pace changed meanwhile, between 0.80 and 1.10 of the first's"
    assert (said in text(found)) == is_told
    assert [trial["pace"] for trial in as_dict(found)["trials"]] == list(paces)
