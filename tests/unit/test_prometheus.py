"""deploy/prometheus: rules that Prometheus' own tool takes and tries, over metrics that there are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from smartbatch_worker.contract import metrics as names

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES, TESTS = FOLDER / "smartbatch.rules.yml", FOLDER / "smartbatch.tests.yml"
SUFFIXES = ("_bucket", "_sum", "_count")


def alerts() -> dict[str, Any]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", TESTS)], ids=lambda words: words[0])
def test_promtool_takes_the_rules_and_finds_them_to_fire_as_they_should(arguments: tuple[Any, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    assert promtool is not None
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", alerts())
def test_every_rule_is_tried_and_says_what_to_do(alert: str) -> None:
    tried = [
        each
        for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
        for each in test["alert_rule_test"]
        if each["alertname"] == alert
    ]
    assert any(each["exp_alerts"] for each in tried), f"{alert} is not tried in {TESTS.name}"
    assert set(alerts()[alert]["annotations"]) == {"summary", "description"}


def test_rules_ask_for_metrics_that_there_are() -> None:
    known = {*names.COUNTERS, *names.GAUGES, *names.FRONTEND}
    known |= {name + suffix for name in names.FRONTEND for suffix in SUFFIXES}
    asked = {name for rule in alerts().values() for name in re.findall(r"smartbatch_\w+", rule["expr"])}
    assert asked <= known, f"there is no {sorted(asked - known)}"
