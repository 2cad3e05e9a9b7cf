"""Servers as process trees: started, paused while others are measured, ended by pid."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import requests

LOOK_S, STILL_SHARE = 0.3, 0.4
"""How often it is looked whether a server computes; it does not where it takes less of a core: some wait by polling."""
GRACE_S = 3.0
"""For a server to end by itself; LitServe takes longer than anybody would wait."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
PROJECT = Path(__file__).resolve().parents[1]


class ServerFailed(RuntimeError):
    """A contestant did not start or stopped by itself; the message holds the end of its log."""


def child_env(extra: Mapping[str, str]) -> dict[str, str]:
    """This environment with bytecode caching on, no stray settings of ours, and `extra`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SMARTBATCH_")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "handler"), str(PROJECT / "control")])
    bin_dir = str(Path(sys.executable).parent)
    return env | {"PYTHONPATH": path, "PATH": bin_dir + os.pathsep + env.get("PATH", "")} | dict(extra)


def end_with_parent() -> None:
    """Ask Linux for SIGTERM when the bench is gone, however it went; called in the child before it starts."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pause(pid: int) -> None:
    """Stop the tree's clocks: an idle contestant must not cost the one being measured."""
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()


def resume(pid: int) -> None:
    """Continue a paused tree."""
    for process in reversed(tree(pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def wait_idle(pid: int, timeout_s: float = 60.0) -> None:
    """Return when the tree has answered what the last load left in its queue: hardly any CPU time passes."""
    deadline, before, num_still = time.monotonic() + timeout_s, _cpu_s(pid), 0
    while time.monotonic() < deadline and num_still < 3:
        time.sleep(LOOK_S)
        now = _cpu_s(pid)
        num_still = num_still + 1 if now - before < STILL_SHARE * LOOK_S else 0
        before = now


def _cpu_s(pid: int) -> float:
    return _sum_cpu_s(tree(pid))


def _sum_cpu_s(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = process.cpu_times()
            total += times.user + times.system
    return total


class CpuWatch:
    """Notes a tree's CPU time five times a second, for as long as the block lasts."""

    def __init__(self, pid: int | None) -> None:
        self._processes = [] if pid is None else tree(pid)
        self._notes: list[tuple[float, float]] = []
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def ms_per_answer(self, times: Sequence[float], first: int, last: int) -> float | None:
        """CPU milliseconds per answer between answers `first` and `last`, which came at times[...]."""
        if not self._processes or len(self._notes) < 2:
            return None
        clock, cpu_s = zip(*self._notes, strict=True)
        used_s = np.interp(times[last], clock, cpu_s) - np.interp(times[first], clock, cpu_s)
        return float(used_s) / (last - first) * 1000

    def __enter__(self) -> CpuWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._processes:
            self._notes.append((time.monotonic(), _sum_cpu_s(self._processes)))
            if self._finished.wait(0.2):
                return


def compiler_cpu_s(pid: int) -> float:
    """CPU time that the tree's JVMs have spent compiling themselves; 0 where Linux does not tell threads apart."""
    total = 0.0
    for process in tree(pid):
        for stat in Path(f"/proc/{process.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):
                name, _, fields = stat.read_text().partition("(")[2].rpartition(")")
                if re.match(r"C[12] Compiler", name):
                    user, system = fields.split()[11:13]
                    total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return total


def memory_mb(pid: int) -> float:
    """Memory of the tree, shared pages counted once (proportional set size)."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total / 2**20


class Process:
    """One server started by command."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as sink:
            self._child = subprocess.Popen(
                command,
                env=child_env(env),
                cwd=PROJECT,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self.pid = self._child.pid

    def wait_until_answers(self, url: str, payload: bytes, content_type: str, timeout_s: float = 180) -> None:
        """Return once a POST is answered with 200.

        Raises:
            ServerFailed: it ended, or did not answer in time.
        """
        deadline, last = time.monotonic() + timeout_s, ""
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                break
            try:
                reply = requests.post(url, data=payload, headers={"Content-Type": content_type}, timeout=120)
                if reply.status_code == 200:
                    return
                last = f"{reply.status_code} {reply.text[:200]}"
            except requests.RequestException as error:
                last = type(error).__name__
            time.sleep(0.5)
        tail = self.log.read_text(errors="replace")[-1500:]
        raise ServerFailed(f"no answer at {url} ({last}); its log ends: {tail}")

    def stop(self) -> None:
        """End the whole tree, politely first: a server that nobody asks any more has nothing to finish."""
        processes = tree(self.pid)
        resume(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=GRACE_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=10)
        self._child.wait()
