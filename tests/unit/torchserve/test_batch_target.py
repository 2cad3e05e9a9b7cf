"""What a worker learns of its batches reaches the frontend, the metrics, and where it must the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from smartbatch_worker.contract import headers
from smartbatch_worker.flow.rows import Row
from smartbatch_worker.torchserve.batch_target import BatchTarget
from smartbatch_worker.torchserve.telemetry import StageTimer, Telemetry


class Context:
    """Notes the headers of answers."""

    def __init__(self) -> None:
        self.headers: dict[int, tuple[str, str]] = {}

    def set_response_header(self, index: int, name: str, value: str) -> None:
        self.headers[index] = (name, value)


class Took(StageTimer):
    """A batch that took as long as told."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def since_start(self) -> float:
        return self._seconds


def target_of(target_ms: float | None, lines: list[str]) -> BatchTarget:
    return BatchTarget(target_ms, 16, tuple, Telemetry("m", "W-1", lines.append))


def served(target: BatchTarget, count: int, seconds: float, *, has_loaded: bool = False) -> dict[int, Any]:
    context = Context()
    target.took([Row(b"", {}) for _ in range(count)], Took(seconds), context, has_loaded=has_loaded)
    return context.headers


def test_every_answer_tells_the_frontend() -> None:
    target = target_of(100, [])
    assert served(target, 16, 9.9, has_loaded=True) == dict.fromkeys(range(16), (headers.BATCH_LIMIT, "16"))
    found = served(target, 16, 0.4)
    assert found == dict.fromkeys(range(16), (headers.BATCH_LIMIT, str(target.limit)))
    assert target.limit is not None
    assert 2 <= target.limit <= 4, "a quarter of the requests for a quarter of the time"


def test_without_a_target_nothing_is_told() -> None:
    target = target_of(None, [])
    assert served(target, 4, 9.9) == {}
    assert target.limit is None


def test_a_target_out_of_reach_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    target = target_of(100, [])
    with caplog.at_level(logging.WARNING):
        for _ in range(40):
            served(target, 1, 0.15)
    assert target.limit == 1
    assert [record.getMessage() for record in caplog.records] == [
        "target_p95_ms=100 cannot be met: a request alone takes 150 ms"
    ]
