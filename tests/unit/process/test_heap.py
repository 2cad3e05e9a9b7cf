"""Memory that is kept between forwards, and memory that is given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HANDLER = Path(__file__).resolve().parents[3] / "handler"

# In a process of its own: the allocator's settings cannot be taken back.
PROGRAM = """
import resource, sys
import psutil
from smartbatch_worker.process import heap

def fill(num_blocks):
    blocks = [bytearray(b"x") * (48 * 2**20) for _ in range(num_blocks)]

def faults_of(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        fill(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages_a_round = faults_of(1)
heap.keep_large_blocks()
fill(2)
kept = faults_of(5)
held = psutil.Process().memory_info().rss
heap.return_free_memory()
print(pages_a_round, kept, held - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_large_blocks_are_kept_until_they_are_asked_back() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(HANDLER)}, check=True)
    pages_a_round, kept, returned = map(int, done.stdout.split())
    assert kept < pages_a_round / 2, "five rounds took pages anew"
    assert returned > 90 * 2**20
