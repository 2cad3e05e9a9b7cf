"""One row's trouble stays that row's: poison, NaN, out of memory, deadlines. On a real server, in one batch."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Serve
from tests.faults.models.hostile import CRAMPED, FITS, GIVES_NAN, NAMES_CUDA, NEVER_FITS, RAISES, SLEEPS
from tests.faults.serving import Reply, Service, count_forwards, good

BATCH_SIZE = 32


@pytest.fixture(scope="module")
def service(serve: Serve) -> Any:
    """Waits for full batches, so that 32 requests sent at once share one."""
    with serve(batch_size=BATCH_SIZE, max_batch_delay_ms=2000) as service:
        yield service


def in_one_batch(service: Service, items: list[list[float]]) -> list[Reply]:
    """Send 32 items until all of them shared one batch: the machine may have been too busy the first time."""
    assert len(items) == BATCH_SIZE
    for _ in range(5):
        replies = service.post_together(items)
        if {reply.headers.get("X-SmartBatch-Batch-Size") for reply in replies} == {str(BATCH_SIZE)}:
            return replies
    raise AssertionError([reply.headers for reply in replies])


@pytest.mark.parametrize("trouble", [RAISES, NAMES_CUDA])
def test_31_good_and_1_poison(service: Service, forwards_file: Path, figures: dict[str, Any], trouble: float) -> None:
    items = [good(n) for n in range(BATCH_SIZE)]
    solo = [service.post(item).body for item in items[:2]]
    before = count_forwards(forwards_file)
    assert all(reply.is_right for reply in in_one_batch(service, items))
    clean = count_forwards(forwards_file) - before

    items[13] = [trouble, 1.0, 2.0, 3.0]
    splits, before = service.splits("poison"), count_forwards(forwards_file)
    replies = in_one_batch(service, items)
    extra = count_forwards(forwards_file) - before - clean

    poisoned = replies.pop(13)
    assert poisoned.status == 500
    assert poisoned.code == "model_failed"
    assert all(reply.is_right for reply in replies), replies
    assert [reply.body for reply in replies[:2]] == solo
    assert extra <= 11
    assert service.splits("poison") - splits <= 5
    figures["one poison row of 32"] = {"others right": len(replies), "extra forwards": extra}


def test_nan_is_reported_to_its_row_alone(service: Service) -> None:
    items = [good(n) for n in range(BATCH_SIZE)]
    items[0] = [GIVES_NAN, 0.0, 0.0, 0.0]
    first, *others = in_one_batch(service, items)
    assert (first.status, first.code) == (500, "nonfinite_output")
    assert all(reply.is_right for reply in others)


def test_out_of_memory_splits_and_learns(service: Service, figures: dict[str, Any]) -> None:
    items = [[float(n), CRAMPED, 0.0, 0.0] for n in range(BATCH_SIZE)]
    assert all(reply.is_right for reply in in_one_batch(service, items))
    first = service.splits("oom")
    assert first > 0
    (description,) = service.descriptions().values()
    assert description["memory_ceilings"] == {"4": FITS}

    assert all(reply.is_right for reply in in_one_batch(service, items))
    assert service.splits("oom") == first  # the ceiling is known: nothing is tried that does not fit
    figures["out of memory"] = {"splits in the first batch": first, "splits in the second": 0}


def test_what_does_not_fit_alone_gets_507(service: Service) -> None:
    items = [good(n) for n in range(BATCH_SIZE)]
    items[5] = [NEVER_FITS, 0.0, 0.0, 0.0]
    replies = in_one_batch(service, items)
    giant = replies.pop(5)
    assert (giant.status, giant.code) == (507, "does_not_fit")
    assert all(reply.is_right for reply in replies)


def test_an_expired_deadline_costs_no_forward(serve: Serve, forwards_file: Path) -> None:
    with serve(batch_size=1) as service:
        replies: list[Reply] = []
        busy = threading.Thread(target=lambda: replies.append(service.post([SLEEPS, 2.0, 0.0, 0.0])))
        before = count_forwards(forwards_file)
        busy.start()
        while count_forwards(forwards_file) == before:
            pass
        late = service.post(good(1), X_Request_Start=f"{time.time():.3f}", X_Request_Deadline_Ms="500")
        busy.join()
        assert replies[0].is_right
        assert (late.status, late.code) == (504, "deadline_passed")
        assert count_forwards(forwards_file) - before == 1
        assert service.post(good(1), X_Request_Deadline_Ms="60000").is_right
