"""The study's grid, windows, rows, front and table."""

from __future__ import annotations

from pathlib import Path

import pytest
from smartbatch_load.account.machine import describe_machine
from smartbatch_load.account.records import Request
from smartbatch_load.draw.pareto import pareto_front
from smartbatch_load.load.closed_loop import ClosedLoopRun, Ending
from smartbatch_load.study.files import write_study
from smartbatch_load.study.grid import Grid, Setting
from smartbatch_load.study.rows import Round, measure, summarise, window

GRID = Grid(batch_sizes=[1, 32], delays_ms=[10], workers=[1], precisions=["fp32", "bf16"], formats=["npy"])


def setting(batch_size: int, precision: str = "fp32") -> Setting:
    return Setting(batch_size=batch_size, max_delay_ms=10, workers=1, precision=precision, format="npy")


def round_of(number: int, batch_size: int, rps: float, precision: str = "fp32", failures: int = 0) -> Round:
    return Round(
        number=number,
        setting=setting(batch_size, precision),
        rps=rps,
        p50_s=0.1 * batch_size,
        p95_s=0.2 * batch_size,
        failures=failures,
        requests=100,
        avg_batch_size=float(batch_size),
        discrepancy=0.001 * number,
        generator_cpu_percent=10.0 * number,
        warning=None,
    )


def test_rounds_are_interleaved() -> None:
    order = [(number, s.precision, s.batch_size) for number, s in GRID.schedule(2)]
    assert order[:4] == [(1, "fp32", 1), (1, "fp32", 32), (1, "bf16", 1), (1, "bf16", 32)]
    assert order[4:] == [(2, *rest) for _, *rest in order[:4]]


def test_a_value_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"none twice, got \[8, 8\]"):
        Grid(batch_sizes=[8, 8], delays_ms=[1], workers=[1], precisions=["fp32"], formats=["npy"])


def test_only_what_varies_names_a_series() -> None:
    assert GRID.label(setting(32, "bf16")) == "bf16"
    alone = Grid(batch_sizes=[1], delays_ms=[10], workers=[1], precisions=["fp32"], formats=["npy"])
    assert alone.label(setting(1)) == ""


def bursts(every_s: float, size: int, until_s: float) -> list[Request]:
    count = int(until_s / every_s)
    return [Request(i * every_s, 0.1, True, 200, size, "npy", "") for i in range(1, count + 1) for _ in range(size)]


@pytest.mark.parametrize("start", [2.9, 3.0, 3.1, 3.35])
def test_a_window_over_bursts_finds_their_rate_wherever_it_starts(start: float) -> None:
    inside, elapsed_s = window(bursts(0.7, 64, 30), start, start + 10)
    assert len(inside) / elapsed_s == pytest.approx(64 / 0.7)


def test_a_window_without_answers_is_empty() -> None:
    assert window([], 3, 13) == ([], 10)


def run_of(requests: list[Request]) -> ClosedLoopRun:
    return ClosedLoopRun(
        ending=Ending.COMPLETED,
        message="",
        start_unix_s=0.0,
        requests=requests,
        ticks=[],
        samples=[],
        cpu_percents=[],
        server_latency=None,
    )


def test_a_round_is_its_measured_window() -> None:
    found = measure(1, setting(32), run_of(bursts(0.5, 32, 20)), warmup_s=3, duration_s=10)
    assert found is not None
    assert found.rps == pytest.approx(64)
    assert found.avg_batch_size == pytest.approx(32)
    assert measure(1, setting(32), run_of([]), warmup_s=3, duration_s=10) is None


def test_rows_are_medians_with_their_spread() -> None:
    rounds = [
        round_of(n, b, rps) for n, b, rps in [(1, 1, 10), (1, 32, 30), (2, 1, 12), (2, 32, 20), (3, 1, 11), (3, 32, 40)]
    ]
    one, many = summarise(rounds)
    assert (one.rps, one.rps_min, one.rps_max, one.rounds) == (11, 10, 12, 3)
    assert many.rps == 30
    assert many.speedup == pytest.approx(30 / 11)
    assert (many.discrepancy, many.generator_cpu_percent) == (0.003, 30)


def test_a_speedup_compares_what_differs_in_batch_size_alone() -> None:
    rows = summarise([round_of(1, 1, 10), round_of(1, 32, 30), round_of(1, 1, 5, "bf16"), round_of(1, 32, 50, "bf16")])
    assert [row.speedup for row in rows] == [1, 3, 1, 10]


def test_the_front_is_what_nothing_beats() -> None:
    points = [(10, 1), (20, 2), (15, 3), (20, 4), (30, 9), (30, 9)]
    assert pareto_front(points, gain=lambda p: p[0], cost=lambda p: p[1]) == [(10, 1), (20, 2), (30, 9)]


def test_the_files_of_a_study(tmp_path: Path) -> None:
    rounds = [round_of(1, 1, 10), round_of(1, 32, 30, failures=2), round_of(1, 1, 5, "bf16")]
    settings = {"model": "resnet18", "users": 64, "rounds": 1, "duration_s": 10.0, "served_precision": "fp32"}
    rows = write_study(tmp_path, rounds, GRID, settings, describe_machine(), "interrupted", "interrupted by SIGINT")
    assert len(rows) == 3
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| fp32 | 32 | 30.0 | 30.0–30.0 | 3.00 | 3200 | 6400 | 32 | 2 | ★ |" in text
    assert "did not complete: interrupted by SIGINT" in text
    assert "2 requests failed" in text
    assert (tmp_path / "study.csv").read_text(encoding="utf-8").startswith("batch_size,rps,p50_s,p95_s,failures,")
    assert (tmp_path / "study.png").stat().st_size < 200_000
