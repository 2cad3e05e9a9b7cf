"""Signals are facts to look at; process groups end whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from smartbatch_load.load.interrupt import Interrupt, Interrupted
from smartbatch_load.load.processes import ProcessGroup

PATIENCE_S = 30.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sets_a_flag_and_ends_the_next_wait(number: signal.Signals) -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), number)
        wait_until(lambda: interrupt.is_set)
        with pytest.raises(Interrupted, match=number.name):
            interrupt.sleep(1000)


def test_the_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_what_was_made_meanwhile_is_undone() -> None:
    undone: list[str] = []

    def make() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "server"

    with Interrupt() as interrupt, pytest.raises(Interrupted):
        interrupt.call(make, undo=undone.append)
    assert undone == ["server"]


def test_the_thread_that_made_it_lives_on() -> None:
    with Interrupt() as interrupt:
        maker = interrupt.call(threading.current_thread)
        assert maker.is_alive()
        assert interrupt.call(threading.current_thread) is maker
    assert not maker.is_alive()


def test_errors_pass_through() -> None:
    def fail() -> None:
        raise TimeoutError("its own")

    with Interrupt() as interrupt:
        for run in (interrupt.call, interrupt.watch):
            with pytest.raises(TimeoutError, match="its own"):
                run(fail)


def test_a_watched_wait_is_abandoned() -> None:
    never = threading.Event()
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            interrupt.watch(never.wait)
    never.set()


FAMILY = """
import subprocess, sys, time, signal
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_a_group_ends_with_its_children(tmp_path: Path, manner: str) -> None:
    log = tmp_path / "log"
    group = ProcessGroup([sys.executable, "-c", FAMILY, manner], env=os.environ, cwd=tmp_path, log=log)
    wait_until(lambda: log.read_text().endswith("\n"))
    child = int(log.read_text())
    assert group.poll() is None
    group.stop(grace_s=0.2)
    assert group.poll() is not None
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    group.stop()


def test_cpu_is_that_of_each_process(tmp_path: Path) -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    group = ProcessGroup(spin, env=os.environ, cwd=tmp_path, log=tmp_path / "log")
    try:
        assert group.cpu_percents() == []

        def seen() -> bool:
            return any(percent > 0 for percent in group.cpu_percents())

        wait_until(seen)
    finally:
        group.stop(grace_s=0)


def test_importing_the_commands_does_not_load_locust() -> None:
    commands = (
        "smartbatch_load.cli, smartbatch_load.stress.run, smartbatch_load.study.run, smartbatch_load.capacity.run"
    )
    code = f"import sys, {commands}; print('gevent' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
