"""Exposition text to samples, quantiles and the five fields."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartbatch.remote.scrape import histogram_quantile, parse, quantile, summary
from smartbatch_worker.contract.metrics import REQUEST_SECONDS_BOUNDS, cumulative_counts, le_label

TEXT = """\
# HELP smartbatch_requests_total Torchserve prometheus counter metric with unit: Count
# TYPE smartbatch_requests_total counter
smartbatch_requests_total{ModelName="a",Level="Model",status="200",Hostname="h",} 29.0
smartbatch_requests_total{ModelName="a",Level="Model",status="400",Hostname="h",} 3.0
smartbatch_requests_total{ModelName="b",Level="Model",status="200",Hostname="h",} 5.0
# TYPE smartbatch_batches_total counter
smartbatch_batches_total{ModelName="a",Level="Model",Hostname="h",} 4.0
smartbatch_batches_total{ModelName="b",Level="Model",Hostname="h",} 1.0
# TYPE smartbatch_batch_size_sum counter
smartbatch_batch_size_sum{ModelName="a",Level="Model",Hostname="h",} 32.0
smartbatch_batch_size_sum{ModelName="b",Level="Model",Hostname="h",} 5.0
# TYPE smartbatch_batch_size_count counter
smartbatch_batch_size_count{ModelName="a",Level="Model",Hostname="h",} 4.0
smartbatch_batch_size_count{ModelName="b",Level="Model",Hostname="h",} 1.0
# TYPE smartbatch_request_seconds_bucket counter
smartbatch_request_seconds_bucket{ModelName="a",Level="Model",le="0.1",Hostname="h",} 10.0
smartbatch_request_seconds_bucket{ModelName="a",Level="Model",le="0.2",Hostname="h",} 20.0
smartbatch_request_seconds_bucket{ModelName="a",Level="Model",le="+Inf",Hostname="h",} 20.0
"""


def test_summary_of_one_model_and_of_all() -> None:
    samples = parse(TEXT)
    assert samples.models() == ["a", "b"]
    one = summary(samples, "a")
    assert (one["total_requests"], one["total_batches"], one["avg_batch_size"]) == (32, 4, 8.0)
    both = summary(samples)
    assert (both["total_requests"], both["total_batches"], both["avg_batch_size"]) == (37, 5, 7.4)


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
    assert [s.value for s in samples.named("smartbatch_requests_total", ModelName="b")] == [5]
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


@given(
    st.lists(st.floats(0.002, 60.0), min_size=1, max_size=200),
    st.sampled_from([0.5, 0.95]),
    st.randoms(use_true_random=False),
)
def test_within_15_percent_of_the_exact_quantile(seconds: list[float], q: float, rng: random.Random) -> None:
    rng.shuffle(seconds)
    counts = dict.fromkeys([*(le_label(b) for b in REQUEST_SECONDS_BOUNDS), "+Inf"], 0)
    counts |= {le_label(bound): count for bound, count in cumulative_counts(seconds, REQUEST_SECONDS_BOUNDS).items()}
    text = "".join(
        f'smartbatch_request_seconds_bucket{{ModelName="a",le="{le}"}} {count}\n' for le, count in counts.items()
    )
    estimate = quantile(parse(text), q)
    exact = sorted(seconds)[math.ceil(q * len(seconds)) - 1]
    assert estimate is not None
    assert exact / 1.1501 <= estimate <= exact * 1.1501
