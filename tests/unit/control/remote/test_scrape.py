"""Exposition text to samples, quantiles and the five fields."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartbatch.remote.scrape import histogram_quantile, parse, quantile, summary
from smartbatch_worker.contract.metrics import QUEUE_LATENCY, cumulative_counts, le_label

TEXT = """\
# HELP smartbatch_requests_total Answers that workers gave, by status.
# TYPE smartbatch_requests_total counter
smartbatch_requests_total{model="a",level="Model",status="200",hostname="h",} 29.0
smartbatch_requests_total{model="a",level="Model",status="400",hostname="h",} 3.0
smartbatch_requests_total{model="b",level="Model",status="200",hostname="h",} 5.0
# TYPE smartbatch_batches_total counter
smartbatch_batches_total{model="a",level="Model",hostname="h",} 4.0
smartbatch_batches_total{model="b",level="Model",hostname="h",} 1.0
# TYPE smartbatch_batch_size histogram
smartbatch_batch_size_sum{model="a",level="Model",hostname="h",} 32.0
smartbatch_batch_size_sum{model="b",level="Model",hostname="h",} 5.0
smartbatch_batch_size_count{model="a",level="Model",hostname="h",} 4.0
smartbatch_batch_size_count{model="b",level="Model",hostname="h",} 1.0
# TYPE smartbatch_request_seconds histogram
smartbatch_request_seconds_bucket{model="a",route="predictions",outcome="success",le="0.1",} 6.0
smartbatch_request_seconds_bucket{model="a",route="predictions",outcome="success",le="0.2",} 12.0
smartbatch_request_seconds_bucket{model="a",route="predictions",outcome="success",le="+Inf",} 12.0
smartbatch_request_seconds_bucket{model="a",route="v1",outcome="success",le="0.1",} 4.0
smartbatch_request_seconds_bucket{model="a",route="v1",outcome="success",le="0.2",} 8.0
smartbatch_request_seconds_bucket{model="a",route="v1",outcome="success",le="+Inf",} 8.0
smartbatch_request_seconds_bucket{model="a",route="v1",outcome="failure",le="0.1",} 700.0
smartbatch_request_seconds_bucket{model="a",route="v1",outcome="failure",le="0.2",} 700.0
smartbatch_request_seconds_bucket{model="a",route="v1",outcome="failure",le="+Inf",} 700.0
"""
EDGE = """\
smartbatch_http_requests_total{model="a",route="predictions",status="200",} 29.0
smartbatch_http_requests_total{model="a",route="v1",status="503",} 700.0
smartbatch_http_requests_total{model="",route="predictions",status="404",} 2.0
smartbatch_http_requests_total{model="echo",route="predictions",status="200",} 1.0
"""


def test_summary_of_one_model_and_of_all() -> None:
    samples = parse(TEXT)
    assert samples.models() == ["a", "b"]
    one = summary(samples, "a")
    assert (one["total_requests"], one["total_batches"], one["avg_batch_size"]) == (32, 4, 8.0)
    both = summary(samples)
    assert (both["total_requests"], both["total_batches"], both["avg_batch_size"]) == (37, 5, 7.4)


def test_where_the_frontend_counts_every_request_is_one() -> None:
    samples = parse(TEXT + EDGE)
    assert summary(samples, "a")["total_requests"] == 729
    assert summary(samples)["total_requests"] == 732
    assert summary(samples, "b")["total_requests"] == 0
    assert samples.models() == ["a", "b", "echo"]


def test_a_stock_frontends_microseconds_are_seconds() -> None:
    samples = parse('ts_queue_latency_microseconds{model_name="a",model_version="1.0",hostname="h",} 2500000.0\n')
    assert samples.total(QUEUE_LATENCY, model_name="a") == 2.5


def test_nothing_measured_is_none_and_not_zero() -> None:
    assert summary(parse("")) == {
        "total_requests": 0,
        "total_batches": 0,
        "avg_batch_size": None,
        "p50_latency": None,
        "p95_latency": None,
    }
    assert quantile(parse(TEXT), 0.5, "b") is None


def test_labels_select_samples() -> None:
    samples = parse(TEXT)
    assert samples.total("smartbatch_requests_total", status="400") == 3
    assert [s.value for s in samples.named("smartbatch_requests_total", model="b")] == [5]
    assert samples.total("no_such_metric") == 0


def test_quantiles_interpolate_by_ratio() -> None:
    samples = parse(TEXT)
    assert quantile(samples, 0.5, "a") == pytest.approx(0.1)
    assert quantile(samples, 0.75, "a") == pytest.approx(0.1 * math.sqrt(2))
    assert quantile(samples, 0.25, "a") == pytest.approx(0.1 / math.sqrt(2))


def test_beyond_the_last_bound_the_bound_is_the_answer() -> None:
    assert histogram_quantile([(1.0, 0), (2.0, 1), (math.inf, 4)], 0.95) == 2.0
    assert histogram_quantile([(math.inf, 4)], 0.5) == 0.0


def test_q_must_be_a_share() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        histogram_quantile([(1.0, 1)], 95)


BOUNDS = tuple(round(0.001 * 1.1**k, 6) for k in range(124))
"""The frontend's (account/Ledger.java); tests/e2e/frontend compares them with a real server's."""


@given(
    st.lists(st.floats(0.002, 60.0), min_size=1, max_size=200),
    st.sampled_from([0.5, 0.95]),
    st.randoms(use_true_random=False),
)
def test_within_a_tenth_of_the_exact_quantile(seconds: list[float], q: float, rng: random.Random) -> None:
    rng.shuffle(seconds)
    counts = dict.fromkeys([*(le_label(b) for b in BOUNDS), "+Inf"], 0)
    counts |= {le_label(bound): count for bound, count in cumulative_counts(seconds, BOUNDS).items()}
    text = "".join(
        f'smartbatch_request_seconds_bucket{{model="a",outcome="success",le="{le}"}} {count}\n'
        for le, count in counts.items()
    )
    estimate = quantile(parse(text), q)
    exact = sorted(seconds)[math.ceil(q * len(seconds)) - 1]
    assert estimate is not None
    assert exact / 1.1005 <= estimate <= exact * 1.1005
