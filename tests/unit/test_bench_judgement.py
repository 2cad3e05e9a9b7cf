"""How the bench judges: rates from bursts, answers of every shape, ratios, and reports that say what is missing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from bench import backends, cells, report, scale
from bench.images import jpeg, json_body, pixels, uint8_npy
from bench.judge import Judge
from bench.load import multipart, steady_rate, steady_span
from bench.work import Work, top_class


def test_steady_rate_counts_whole_batches_only() -> None:
    # 32 answers every 2 s: 16 a second, wherever the window happens to end.
    times = [start + 2.0 * batch + 0.001 * n for batch in range(1, 6) for start in (0.0,) for n in range(32)]
    for wall_s in (10.1, 11.0, 11.9):
        assert steady_rate(times, 0.0, wall_s, 64) == pytest.approx(16.0, rel=0.01)


def test_steady_rate_of_an_even_flow() -> None:
    times = [0.01 * n for n in range(1, 1001)]
    assert steady_rate(times, 0.0, 10.0, 64) == pytest.approx(100.0, rel=0.01)


def test_one_long_pause_is_no_rhythm() -> None:
    """As of a server that stood still for a second before it answered evenly."""
    times = [number / 100 for number in range(1000) if not 40 <= number < 140]
    span = steady_span(times, 0.0, 10.0, 32)
    assert span is not None
    assert steady_rate(times, 0.0, 10.0, 32) == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 2.0], [3.0 + 0.001 * n for n in range(32)]])
def test_steady_rate_without_a_rhythm_falls_back_to_the_count(times: list[float]) -> None:
    assert steady_rate(times, 0.0, 4.0, 64) == len(times) / 4.0


@pytest.mark.parametrize(
    "reply",
    [
        {"result": [{"label": "x", "index": 3, "score": 0.9}, {"label": "y", "index": 1, "score": 0.1}]},
        {"result": [0.0, 0.1, 0.2, 0.9, 0.3, 0.1]},
        {"class": 3},
        {"answer": '{"result": [{"label": "x", "index": 3, "score": 0.9}]}'},
        [3],
        ['{"result": [{"label": "x", "index": 3, "score": 0.9}]}'],
        {"3": 0.9, "1": 0.1},
    ],
)
def test_top_class_reads_every_contestant(reply: object) -> None:
    assert top_class(json.dumps(reply).encode()) == 3


def test_ratios_name_what_the_issue_asks_for_and_leave_out_what_was_not_measured() -> None:
    wanted = {
        "stock_jpeg_fp32",
        "stock_jpeg_bf16",
        "fastapi_json",
        "fastapi_same_image",
        "fastest_peer_identical_forward",
        "fastest_peer_as_documented",
        "bare_forward",
        "expert_fp32",
        "expert_bf16",
        "goodput_fp32",
        "goodput_bf16",
    }
    rates = {cell.key: 10.0 for cell in cells.CELLS} | {cells.BARE: 20.0}
    rates["identical:SmartBatch:npy"] = 18.0
    rates["expert:SmartBatch bf16:jpeg375"] = 14.0
    rates["goodput:mosec:jpeg375"] = 5.0
    full = cells.ratios(rates)
    assert wanted <= set(full)
    assert full["bare_forward"] == 0.9
    assert full["fastest_peer_identical_forward"] == 1.8
    assert (full["expert_fp32"], full["expert_bf16"], full["goodput_fp32"]) == (1.0, 1.4, 1.0)
    assert set(cells.ratios({}).values()) == {None}


def test_what_one_chose_stands_in_the_others_configuration(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.model_dir.mkdir()
    (work.model_dir / "model-config.yaml").write_text("jobQueueSize: 5\nhandler: {model: resnet18, compile: auto}\n")
    work.take_over({"compile": "off", "micro_batch": 8})
    config = yaml.safe_load((work.model_dir / "model-config.yaml").read_text())
    assert config == {"jobQueueSize": 5, "handler": {"model": "resnet18", "compile": "off", "micro_batch": 8}}


def test_cell_keys_are_unique() -> None:
    keys = [cell.key for cell in cells.CELLS]
    assert len(set(keys)) == len(keys)


def test_the_report_tells_what_was_skipped_and_draws(tmp_path: Path) -> None:
    cell = cells.CELLS[0]
    sample = {"requests_per_s": 40.0, "p95_ms": 900.0, "num_failed": 0, "generator_cpu_share": 0.01}
    sample["server_cpu_ms"] = 25.0
    machine = dict.fromkeys(
        ("processor", "family_model", "cores", "memory_gb", "instructions", "system", "python", "torch"), "x"
    )
    results = {
        "machine": machine | {"load_average_1m_before": 0.1},
        "settings": {"rounds": 1, "seconds": 5.0, "connections": 64, "overrides": [], "bare_micro_batch": None},
        "ratios": cells.ratios({cell.key: 40.0}),
        "images_per_s": {cell.key: 40.0},
        "ratios_of_cpu_time": cells.ratios({}),
        "samples": {cell.key: [sample]},
        "memory_mb": {f"{cell.table}:{cell.backend}": 900},
        "skipped": {"Ray Serve/documented": "not installed"},
    }
    text = report.markdown(results)
    assert "40.0 (40.0–40.0)" in text
    assert "not measured" in text
    assert "Ray Serve/documented: not installed" in text
    report.plot(results, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_a_peer_that_dies_does_not_end_the_run(tmp_path: Path) -> None:
    """The others are measured on, and the report says what happened."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    cell = next(cell for cell in cells.CELLS if cell.backend == "mosec/documented")
    args = argparse.Namespace(only=[cell.key], rounds=2, seconds=1.0, connections=1, quick=False)
    rounds: list[dict[str, str]] = []
    judge = Judge(args, Work(tmp_path), lambda judge: rounds.append(dict(judge.skipped)))
    peer = SimpleNamespace(pid=gone.pid, body=lambda body: body, url=lambda model: "http://127.0.0.1:9/")
    judge.running["mosec/documented"] = cast(backends.Backend, peer)
    judge.samples[cell.key] = []
    for _ in range(2):
        judge.measure_round([cell], "round")
    assert list(judge.skipped) == [cell.key]
    assert "not measured to the end" in judge.skipped[cell.key]
    assert judge.samples[cell.key] == []
    assert len(rounds) == 2


def test_growth_is_the_slope_of_the_second_half() -> None:
    samples = [{"s": 6.0 * n, "workers_mb": 100.0 + max(0, 50 - n) + n, "frontend_mb": 10.0} for n in range(100)]
    assert scale.growth(samples) == pytest.approx(10.0)
    assert scale.growth(samples[:2]) is None


def test_bodies_are_seeded_and_of_a_realistic_size() -> None:
    assert jpeg(375, 500, 1) == jpeg(375, 500, 1) != jpeg(375, 500, 2)
    assert 30_000 < len(jpeg(375, 500, 1)) < 150_000
    assert len(json_body(32, 1)) > 3 * 32 * 32 * 15
    assert len(uint8_npy(32, 1)) == 3 * 32 * 32 + 128
    assert pixels(16, 24, 0).shape == (16, 24, 3)


def test_multipart_holds_the_bytes_between_its_boundaries() -> None:
    body = multipart("images", "image", "image/jpeg", [b"\xff\xd8abc"])
    assert body.content_type.startswith("multipart/form-data; boundary=")
    assert b"\r\n\r\n\xff\xd8abc\r\n--" in body.payloads[0]
