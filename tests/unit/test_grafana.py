"""deploy/grafana: what is committed is what its script gives, and asks for metrics that there are."""

from __future__ import annotations

import json
import re

import pytest
from smartbatch_worker.contract import metrics as names

pytest.importorskip("grafana_foundation_sdk", reason="it needs Python 3.11")

from deploy.grafana import dashboard

SUFFIXES = ("_bucket", "_sum", "_count")


def test_the_committed_dashboard_is_what_the_script_gives() -> None:
    assert dashboard.PLACE.read_text(encoding="utf-8") == dashboard.text(), "run `python -m deploy.grafana.dashboard`"


def test_its_queries_ask_for_metrics_that_there_are() -> None:
    known = {*names.COUNTERS, *names.GAUGES, *names.FRONTEND}
    known |= {name + suffix for name in names.FRONTEND for suffix in SUFFIXES}
    asked = {name for _, query in dashboard.queries() for name in re.findall(r"smartbatch_\w+", query)}
    assert asked <= known, f"there is no {sorted(asked - known)}"
    shown = {name.removesuffix("_total") for name in asked}
    for name in (names.HTTP_REQUESTS, names.QUEUE_REQUESTS, names.WORKERS, names.REJECTED, names.WEIGHTS_RANDOM):
        assert name.removesuffix("_total") in shown


def test_every_panel_says_what_it_shows_and_has_a_place() -> None:
    panels = [panel for panel in json.loads(dashboard.text())["panels"] if panel["type"] != "row"]
    assert len(panels) == sum(map(len, dashboard.ROWS.values()))
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places), "none lies over another"
