"""`smartbatch top`'s figures, from two expositions."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from smartbatch.remote.scrape import parse
from smartbatch.watch.rates import Look, view, views
from smartbatch.watch.top import sparkline


def exposition(
    requests: int, errors: int, batches: int, rows: int, waited_us: float, latencies: tuple[int, int]
) -> str:
    """The counters of a server with one model; latencies: how many within 0.1 s, and in all."""
    labels = 'model="m",level="Model",hostname="h"'
    lines = [
        "# HELP smartbatch_batch_size Requests in a batch.",
        "# TYPE smartbatch_batch_size histogram",
        f'smartbatch_requests_total{{{labels},status="200",}} {requests - errors}',
        f'smartbatch_requests_total{{{labels},status="422",}} {errors}',
        f"smartbatch_batches_total{{{labels},}} {batches}",
        f"smartbatch_batch_size_sum{{{labels},}} {rows}",
        f"smartbatch_batch_size_count{{{labels},}} {batches}",
        f'smartbatch_batch_size_bucket{{{labels},le="4",}} 0',
        f'smartbatch_batch_size_bucket{{{labels},le="8",}} {batches}',
        f'smartbatch_batch_size_bucket{{{labels},le="+Inf",}} {batches}',
        f"smartbatch_forward_size_sum{{{labels},}} {rows}",
        f"smartbatch_forward_size_count{{{labels},}} {2 * batches}",
        f'smartbatch_stage_seconds_total{{{labels},stage="decode",}} {batches * 0.002}',
        f'smartbatch_stage_seconds_total{{{labels},stage="forward",}} {batches * 0.030}',
        f'smartbatch_request_seconds_bucket{{{labels},outcome="success",le="0.1",}} {latencies[0]}',
        f'smartbatch_request_seconds_bucket{{{labels},outcome="success",le="0.2",}} {latencies[1]}',
        f'smartbatch_request_seconds_bucket{{{labels},outcome="success",le="+Inf",}} {latencies[1]}',
        f'ts_queue_latency_microseconds{{model_name="m",model_version="default",hostname="h",}} {waited_us}',
    ]
    return "\n".join(lines) + "\n"


MEASURING = 'smartbatch_model_measuring{{model="m",level="Model",hostname="h",worker="{worker}",}} {value}\n'


def look(taken_s: float, *counters: object) -> Look:
    return Look(taken_s=taken_s, samples=parse(exposition(*counters)))  # type: ignore[arg-type]


BEFORE = (1000, 10, 200, 1000, 5e6, (0, 900))
AFTER = (1080, 14, 210, 1080, 45e6, (80, 980))


def test_figures_are_what_the_counters_gained() -> None:
    found = view("m", look(100.0, *BEFORE), look(102.0, *AFTER))
    assert (found.rps, found.errors_per_s, found.batches_per_s, found.avg_batch_size) == (40, 2, 5, 8)
    assert found.avg_forward_size == 4
    assert found.queue_depth == pytest.approx(20)  # 40 s of waiting in 2 s
    assert found.p95_s is not None
    assert found.p95_s <= 0.1  # the old, slow answers do not count
    assert found.stage_s["forward"] == pytest.approx(0.030)
    assert found.batch_sizes == {"8": 1.0}
    assert (found.total_requests, found.total_batches) == (1080, 210)


def test_an_idle_model_has_rates_of_zero_and_nothing_else() -> None:
    found = view("m", look(100.0, *AFTER), look(101.0, *AFTER))
    assert (found.rps, found.avg_batch_size, found.p50_s, found.stage_s, found.batch_sizes) == (0, None, None, {}, {})


def test_workers_that_still_measure_are_counted_and_shown_until_they_are_done() -> None:
    from smartbatch.watch.top import _tables

    def measured(*values: int) -> Look:
        lines = "".join(MEASURING.format(worker=f"W-{n}", value=value) for n, value in enumerate(values))
        return Look(taken_s=2.0, samples=parse(exposition(*AFTER) + lines))

    for values, num in (((1, 1), 2), ((0, 1), 1), ((0, 0), 0), ((), 0)):
        (found,) = views(look(0.0, *BEFORE), measured(*values))
        assert found.measuring_workers == num
        console = Console(width=100, file=io.StringIO(), record=True)
        console.print(_tables([found], {}, 2.0, "http://127.0.0.1:8082/metrics"))
        assert ("not at their full speed yet" in console.export_text()) == (num > 0)


def test_a_restarted_server_counts_from_zero() -> None:
    found = view("m", look(100.0, *AFTER), look(101.0, 8, 0, 1, 8, 1e6, (8, 8)))
    assert (found.rps, found.avg_batch_size, found.errors_per_s) == (8, 8, 0)


def test_refused_requests_are_requests_and_errors_where_the_frontend_counts_them() -> None:
    def counted(ok: int, refused: int) -> Look:
        lines = [
            f'smartbatch_http_requests_total{{model="m",route="predictions",status="200",}} {ok}',
            f'smartbatch_http_requests_total{{model="m",route="v2",status="503",}} {refused}',
        ]
        return Look(taken_s=0.0, samples=parse(exposition(ok, 0, 1, ok, 0, (0, 0)) + "\n".join(lines) + "\n"))

    after = counted(20, 30)
    found = view("m", counted(10, 0), Look(taken_s=2.0, samples=after.samples))
    assert (found.rps, found.errors_per_s, found.total_requests) == (20, 15, 50)


def test_a_server_without_answers_has_no_models() -> None:
    assert views(Look(taken_s=0, samples=parse("")), Look(taken_s=1, samples=parse(""))) == []


def test_the_tables_show_every_model_and_fit_a_terminal() -> None:
    from smartbatch.watch.top import _json, _tables

    found = views(look(100.0, *BEFORE), look(102.0, *AFTER))
    console = Console(width=100, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    console.print(_tables(found, {}, 2.0, "http://127.0.0.1:8082/metrics"))
    text = console.export_text()
    console.file.close()
    for part in ("m", "40.0", "8.0", "20.0", "≤8 100%", "forward 30 ms"):
        assert part in text
    assert json.loads(_json(found))["models"][0]["rps"] == 40


def test_sparklines() -> None:
    assert sparkline([0, 1, 2]) == "▁▄█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
