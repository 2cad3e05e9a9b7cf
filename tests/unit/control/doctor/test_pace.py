"""What a machine's pace makes of a server's times."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from smartbatch.doctor.pace import Pacer
from smartbatch.doctor.processes import CpuSeconds

from tests.unit.control.doctor.test_illnesses import HEALTHY

# Two cores for 10 s, all busy.
BUSY = replace(HEALTHY, cpu=CpuSeconds(workers=16.0, frontend=3.0, own=1.0), pace_s=0.002)


def test_a_piece_of_work_takes_some_time_and_its_thread_ends() -> None:
    with Pacer() as pacer:
        assert any(thread.name == "smartbatch-pacer" for thread in threading.enumerate())
    assert pacer.pace_s > 0
    assert not any(thread.name == "smartbatch-pacer" for thread in threading.enumerate())


@pytest.mark.parametrize(("pace_s", "longer"), [(0.002, 1.0), (0.003, 1.5), (0.001, 0.5)])
def test_what_only_computes_takes_as_much_longer_as_the_work_does(pace_s: float, longer: float) -> None:
    assert BUSY.times_at(pace_s) == pytest.approx(longer)


def test_what_waits_half_of_the_time_takes_half_as_much_longer() -> None:
    half = replace(BUSY, cpu=CpuSeconds(workers=8.0, frontend=1.5, own=0.5))
    assert half.times_at(0.003) == pytest.approx(1.25)


def test_where_the_pace_is_not_known_or_not_the_models_nothing_is_said() -> None:
    on_a_gpu = replace(BUSY, workers=tuple({**worker, "device": "cuda:0"} for worker in BUSY.workers))
    elsewhere = replace(BUSY, server=replace(BUSY.server, cores=None))
    assert BUSY.times_at(None) == 1.0
    for evidence in (replace(BUSY, pace_s=None), replace(BUSY, cpu=None), on_a_gpu, elsewhere):
        assert evidence.times_at(0.003) == 1.0
