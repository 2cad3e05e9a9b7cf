"""Telemetry: lines TorchServe can parse, histograms that add up, nothing lost between flushes."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import pytest
import yaml
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.torchserve.telemetry import Labels, StageTimer, Telemetry

# The pattern in TorchServe 0.12's Metric.java.
TORCHSERVE_LINE = re.compile(
    r"\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)(,(.*))?"
)
ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "config" / "metrics.yaml"
SPELLING = ROOT / "frontend" / "src" / "smartbatch" / "frontend" / "account" / "Spelling.java"


def test_metrics_yaml_declares_what_the_worker_emits() -> None:
    declared = yaml.safe_load(CONFIG.read_text())["model_metrics"]
    for kind, table in (("counter", names.COUNTERS), ("gauge", names.GAUGES)):
        ours = {m["name"]: m["dimensions"] for m in declared[kind] if m["name"].startswith("smartbatch_")}
        assert ours == {name: ["model", "level", *labels] for name, labels in table.items()}


def test_the_mended_frontend_has_a_help_text_for_each() -> None:
    source = SPELLING.read_text(encoding="utf-8")
    for name in {*names.COUNTERS, *names.GAUGES}:
        family = re.sub(f"^({'|'.join(names.HISTOGRAMS)})_(bucket|sum|count)$", r"\1", name)
        assert f'"{family}", "' in source, name


def test_lines_are_what_torchserve_parses() -> None:
    written: list[str] = []
    telemetry = Telemetry("m", "W-9000", written.append)
    telemetry.count(names.REQUESTS, 3, status="200")
    telemetry.gauge(names.MODEL_LOADED, 1, per_worker=True)
    telemetry.count(names.STAGE_SECONDS, 1.5e-7, stage="decode")
    telemetry.flush()
    lines = "".join(written).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("[METRICS]")
        assert TORCHSERVE_LINE.fullmatch(line.removeprefix("[METRICS]"))
    assert "smartbatch_requests_total.unit:3|#model:m,level:Model,status:200|#type:COUNTER" in lines[0]


def value_of(line: str) -> float:
    match = TORCHSERVE_LINE.fullmatch(line.removeprefix("[METRICS]"))
    assert match is not None
    return float(match[3])


def test_rapid_updates_are_added_up_and_written_by_themselves() -> None:
    written: list[str] = []
    telemetry = Telemetry("m", "W-1", written.append)
    for _ in range(1000):
        telemetry.count(names.BATCHES)
    deadline = time.monotonic() + 10
    total = 0.0
    while total < 1000 and time.monotonic() < deadline:
        time.sleep(0.01)
        total = sum(value_of(line) for line in "".join(written).splitlines())
    assert total == 1000
    assert len(written) < 100


@pytest.mark.parametrize("size", [1, 2, 3, 32, 33, 600])
def test_histograms_are_cumulative(size: int) -> None:
    telemetry = Telemetry("m", "W-1", lambda text: None)
    values: dict[tuple[str, Labels], float] = {}
    for observations in ([size], [32, size, 2]):
        telemetry.histogram(values, names.BATCH_SIZE, observations, names.BATCH_SIZE_BOUNDS)
    buckets = {dict(labels)["le"]: count for (name, labels), count in values.items() if name.endswith("_bucket")}
    expected = {b: sum(n <= b for n in (size, 32, size, 2)) for b in (*names.BATCH_SIZE_BOUNDS, math.inf)}
    assert buckets == {names.le_label(b): count for b, count in expected.items() if count}
    assert values[telemetry.key(f"{names.BATCH_SIZE}_sum")] == 2 * size + 34
    assert values[telemetry.key(f"{names.BATCH_SIZE}_count")] == 4


def test_stage_timer_adds_up_even_when_a_stage_raises() -> None:
    timer = StageTimer()
    with pytest.raises(ValueError, match="x"), timer.stage("decode"):
        raise ValueError("x")
    assert timer.seconds["decode"] > 0


def test_every_counter_starts_at_zero() -> None:
    telemetry = Telemetry("m", "W-1", lambda text: None)
    zeros = telemetry.zeros()
    assert {name for name, _ in zeros} == set(names.COUNTERS)
    assert set(zeros.values()) == {0.0}
    for histogram, bounds in names.HISTOGRAMS.items():
        buckets = [dict(labels)["le"] for name, labels in zeros if name == f"{histogram}_bucket"]
        assert len(buckets) == len(bounds) + 1
