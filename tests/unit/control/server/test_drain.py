"""How long a stop waits for what the frontend owes, and what it says of the rest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest
from smartbatch.remote.management import DrainState
from smartbatch.server.stopping import drain as drain_module
from smartbatch.server.stopping.drain import DrainReport, drain

NOTHING = DrainState(draining_since=1.0, queued=0, answering=0, receiving=0, quiet_ms=0, connections=0)


class Frontend:
    """Owes what the test says, look by look; the last for ever. Stands in for its own client."""

    def __init__(self, *owed: DrainState) -> None:
        self._owed = list(owed)
        self.refused = False

    @classmethod
    def for_state(cls, state: Any) -> Any:
        return state  # the test gives the fake in its place

    def __enter__(self) -> Frontend:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def drain(self, *, refuse_queued: bool = False) -> DrainState:
        self.refused |= refuse_queued
        return self._owed[0]

    def drain_state(self) -> DrainState:
        state = self._owed.pop(0) if len(self._owed) > 1 else self._owed[0]
        if not self.refused:
            return state
        return dataclasses.replace(state, answering=state.answering - state.queued, queued=0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Time passes only while it is slept through."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(drain_module, "ManagementClient", Frontend)
    yield
    monkeypatch.undo()


def drained(*owed: DrainState, grace_s: float = 20.0) -> DrainReport:
    return drain(Frontend(*owed), grace_s)  # type: ignore[arg-type]


def test_it_waits_for_answers_and_for_the_end_of_each_connection() -> None:
    busy = dataclasses.replace(NOTHING, queued=3, answering=4, connections=9)
    idle = dataclasses.replace(NOTHING, connections=5)
    report = drained(busy, busy, idle, NOTHING)
    assert (report.complete, report.remark) == (True, "")
    assert report.seconds == pytest.approx(0.15)


def test_half_a_request_is_not_waited_for_once_it_is_quiet() -> None:
    half = dataclasses.replace(NOTHING, receiving=1, connections=1)
    report = drained(half, dataclasses.replace(half, quiet_ms=1999), dataclasses.replace(half, quiet_ms=2000))
    assert report.complete
    assert report.remark == "1 connection(s) had sent a part of a request, and nothing more"
    assert report.seconds == pytest.approx(0.1)


def test_who_goes_on_sending_is_cut_off_at_the_end_of_the_grace() -> None:
    report = drained(dataclasses.replace(NOTHING, receiving=2, connections=2))
    assert not report.complete
    assert report.remark == "2 connection(s) got no answer within 20 s"


def test_what_still_waits_is_refused_before_the_grace_is_over() -> None:
    report = drained(dataclasses.replace(NOTHING, queued=7, answering=7, connections=0))
    assert not report.complete
    assert report.remark == "requests still waited after 15 s and got 503"
    assert 15 <= report.seconds < 16


def test_a_batch_that_outlasts_the_grace_is_said_too() -> None:
    report = drained(dataclasses.replace(NOTHING, queued=2, answering=6, connections=4), grace_s=8)
    assert not report.complete
    assert report.remark == "requests still waited after 6 s and got 503; 4 connection(s) got no answer within 8 s"
