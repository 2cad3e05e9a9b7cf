"""A process is told from a later one of the same number, and a step of the clock changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest
from smartbatch.remote.process_identity import age_s, birth, live_process, own_birth, wait_gone


def test_a_step_of_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    born = own_birth()
    started, now = psutil.Process().create_time(), time.time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: started + 3600)
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert live_process(os.getpid(), born) is not None
    age = age_s(os.getpid())
    assert age is not None
    assert age < 3600 or now() - started > 3600


def test_a_later_process_of_the_same_number_is_another() -> None:
    assert live_process(os.getpid(), "another boot 17") is None
    assert birth(os.getpid()) != birth(os.getppid())


def test_zombies_have_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = psutil.Process(process.pid)
    born = birth(process.pid)
    assert born is not None
    assert wait_gone([seen], timeout_s=0) == [seen]
    assert process.stdin is not None
    process.stdin.close()
    assert wait_gone([seen], timeout_s=60) == []  # nobody has asked for its exit status yet
    assert live_process(process.pid, born) is None
    process.wait()
    assert birth(process.pid) is None
    assert age_s(process.pid) is None
