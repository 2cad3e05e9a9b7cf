"""Child processes that cannot outlive a run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

GRACE_S = 5.0


class ProcessGroup:
    """A command and every process it starts, in a session of their own.

    Ctrl-C at the terminal does not reach them: the run ends them in its own order.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._cpu_s: dict[int, tuple[float, float]] = {}

    @property
    def pid(self) -> int:
        """Of the command, and of its group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status; None while the command runs."""
        return self._process.poll()

    def cpu_percents(self) -> list[float]:
        """CPU of each process since the last call, percent of one core; empty at the first call."""
        now = time.monotonic()
        percents = []
        for member in self._members():
            with contextlib.suppress(psutil.Error):
                times = member.cpu_times()
                used_s = times.user + times.system
                before = self._cpu_s.get(member.pid)
                self._cpu_s[member.pid] = (now, used_s)
                if before is not None and now > before[0]:
                    percents.append(100 * (used_s - before[1]) / (now - before[0]))
        return percents

    def stop(self, grace_s: float = GRACE_S) -> None:
        """End every process of the group: politely, and after `grace_s` for certain."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and self._alive():
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _members(self) -> list[psutil.Process]:
        try:
            leader = psutil.Process(self.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.Error:
            return []

    def _alive(self) -> bool:
        self._process.poll()  # reaps the leader, which would else count as a member
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
