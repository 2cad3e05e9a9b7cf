"""A process is told by when it was born, which neither its name nor the caller's surroundings change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from smartbatch_worker.contract.process_identity import birth, birth_by_ps

NOBODY = 2**22 + 1
"""No process has a number this large."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_births_are_read_past_any_name() -> None:
    """A program may call itself `a) R 1 (b`, which is what stands before the numbers."""
    set_name = "ctypes.CDLL(None).prctl(15, b'a) R 1 (b', 0, 0, 0)"
    rename = f"import ctypes, sys; {set_name}; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        before = birth(process.pid)
        assert process.stdout is not None
        process.stdout.readline()
        assert birth(process.pid) == before is not None
        assert psutil.Process(process.pid).name() == "a) R 1 (b"
        process.communicate()


def test_who_is_not_there_was_not_born() -> None:
    assert birth(NOBODY) is None
    assert birth(os.getpid()) is not None


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="asks ps")
def test_where_there_is_no_proc_ps_tells_the_same_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    born = birth_by_ps(os.getpid())
    assert born is not None
    for name, value in {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "COLUMNS": "5"}.items():
        monkeypatch.setenv(name, value)
    assert birth_by_ps(os.getpid()) == born
    assert birth_by_ps(NOBODY) is None
