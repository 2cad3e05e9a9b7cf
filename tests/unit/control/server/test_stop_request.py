"""What a stop asks for counts for its own server, while it waits; and which signals mean at once."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from smartbatch.remote.state import ServerState
from smartbatch.server.stopping.stop_request import (
    asked_grace,
    read_outcome,
    remove_requests,
    standing_request,
    write_outcome,
)
from smartbatch.server.stopping.stop_signals import Flag, StopRequested, StopSignals

from tests.unit.control.server.test_server import state as server_state


@pytest.fixture
def state(tmp_path: Path) -> ServerState:
    (tmp_path / "logs").mkdir()
    return server_state(tmp_path)


def leave(state: ServerState, name: str, **changed: object) -> None:
    """A request as a stop left it, changed."""
    with standing_request(state, 0):
        fields = json.loads((Path(state.run_dir) / f"stop-{os.getpid()}.json").read_text())
    (Path(state.run_dir) / name).write_text(json.dumps({**fields, **changed}))


def test_the_shortest_grace_of_those_who_wait(state: ServerState) -> None:
    assert asked_grace(state) is None
    with standing_request(state, 20):
        assert asked_grace(state) == 20
        leave(state, "stop-another.json", grace_s=5)
        assert asked_grace(state) == 5
        (Path(state.run_dir) / "stop-another.json").unlink()
    assert asked_grace(state) is None


def test_what_a_killed_stop_left_means_nothing(state: ServerState) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
        leave(state, "stop-1.json", pid=gone.pid)
    leave(state, "stop-2.json", birth="another boot 17")
    assert asked_grace(state) is None
    remove_requests(Path(state.run_dir))
    assert [path.name for path in Path(state.run_dir).glob("*stop*")] == []


def test_a_request_for_the_server_before_means_nothing_to_this_one(state: ServerState) -> None:
    before = dataclasses.replace(state, supervisor_birth="another boot 17")
    with standing_request(before, 0):
        assert asked_grace(state) is None


def test_the_grace_file_of_older_releases_means_nothing(state: ServerState) -> None:
    (Path(state.run_dir) / "grace").write_text("0")
    assert asked_grace(state) is None


def test_all_who_waited_read_how_it_went(state: ServerState) -> None:
    assert read_outcome(state) is None
    report = {"complete": True, "closed_door": True, "seconds": 1.5, "remark": ""}
    write_outcome(state, report)
    assert (read_outcome(state), read_outcome(state)) == (report, report)
    assert read_outcome(dataclasses.replace(state, supervisor_birth="another boot 17")) is None
    write_outcome(state, None)
    assert read_outcome(state) is None


class TestSignals:
    @pytest.fixture(autouse=True)
    def _handlers_are_put_back(self) -> Iterator[None]:
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        yield
        for signum, handler in before.items():
            signal.signal(signum, handler)

    @pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    @pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_only_a_further_ctrl_c_means_at_once(self, first: signal.Signals, second: signal.Signals) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signals = StopSignals()
        signals.interrupts = False
        signal.raise_signal(first)
        assert signals.stop.is_set()
        assert not signals.at_once.is_set()
        signal.raise_signal(second)
        assert signals.at_once.is_set() == (second == signal.SIGINT)

    def test_while_models_come_up_the_first_one_interrupts(self) -> None:
        signals = StopSignals()
        signals.raise_if_asked()
        signals.begin_to_interrupt()
        with pytest.raises(StopRequested):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop.is_set()

    def test_before_there_is_a_server_it_is_a_fact_to_look_at(self) -> None:
        signals = StopSignals()
        signal.raise_signal(signal.SIGINT)
        for look in (signals.raise_if_asked, signals.begin_to_interrupt):
            with pytest.raises(StopRequested):
                look()
            assert not signals.interrupts, "what catches it is not interrupted again"

    def test_a_signal_at_any_moment_of_a_wait_is_seen(self) -> None:
        """With `threading.Event` one of some thousand finds its lock held by the very thread that it runs in."""
        before = signal.getsignal(signal.SIGALRM)
        try:
            for number in range(3000):
                flag = Flag()
                signal.signal(signal.SIGALRM, lambda *_, flag=flag: flag.set())
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 100))
                while not flag.wait(1e-5):
                    pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_nohup_outlives_its_terminal(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signals = StopSignals()
        signal.raise_signal(signal.SIGHUP)
        assert not signals.stop.is_set()
