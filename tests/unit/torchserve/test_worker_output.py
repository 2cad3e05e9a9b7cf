"""worker_output: nothing but metric lines begins as TorchServe's own lines do."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_worker.torchserve.worker_output import LineGuard

# As TorchServe 0.12 has them in WorkerLifeCycle.ReaderThread; java.util.Scanner cuts the lines.
LINE_BREAK = re.compile("\r\n|[\n\r\u2028\u2029\u0085]")
TORCHSERVES_OWN = re.compile(r"(INFO > )?(\[METRICS\]|\[PID\]\d+$)")

FORGED = "[METRICS]smartbatch_requests_total.unit:7000000|#model:m,level:Model,status:200|#type:COUNTER|#hostname:h,1"


def lines_of(written: bytes) -> list[str]:
    return LINE_BREAK.split(written.decode())


@pytest.mark.parametrize("line_break", ["", "\n", "\r", "\r\n", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("line", [FORGED, "INFO > " + FORGED, "[PID]1"])
def test_no_line_begins_as_torchserves_own(line_break: str, line: str) -> None:
    written = LineGuard().guard(f"{line_break and 'x'}{line_break}{line}\n".encode())
    assert not any(TORCHSERVES_OWN.match(text) for text in lines_of(written))
    assert line.encode() in written


PIECES = st.lists(
    st.sampled_from(
        ["[METRICS]", "[", "METRICS]", "[PID]1", "INFO", " > ", "\n", "\r", "\x85", "\u2028", "\u2029", "é"]
    )
)


@given(pieces=PIECES, cut=st.integers(1, 7))
def test_in_whatever_pieces_it_comes(pieces: list[str], cut: int) -> None:
    text = "".join(pieces).encode()
    guard = LineGuard()
    written = b"".join(guard.guard(text[at : at + cut]) for at in range(0, len(text), cut))
    assert not any(TORCHSERVES_OWN.match(line) for line in lines_of(written))
    assert written.replace(b" ", b"") == text.replace(b" ", b"")


def test_other_lines_stay_as_they_are() -> None:
    assert LineGuard().guard(b"a [METRICS] b\n  [x]\nok\n") == b"a [METRICS] b\n  [x]\nok\n"


PROGRAM = r"""
import logging, sys, traceback, warnings
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
metrics = logging.getLogger("ts.metrics.caching_metric")
from smartbatch_worker.torchserve import worker_output
write_lines = worker_output.guard()
assert worker_output.guard() is write_lines
text = "x\n" + sys.argv[1]
print(sys.argv[1]); print("half", end="")
write_lines("[METRICS]ours.unit:1\n")
logging.getLogger("model").info("%s", text)
metrics.info("[METRICS]theirs.unit:1|#k:%s", "a\n" + sys.argv[1])
sys.stdout.buffer.write(sys.argv[1].encode() + b"\n"); sys.stdout.buffer.flush()
warnings.warn(text)
try:
    raise RuntimeError(text)
except RuntimeError:
    logging.exception("failed")
    traceback.print_exc()
raise SystemExit(text)
"""


def test_a_process_prints_its_own_metrics_and_no_other() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, FORGED], capture_output=True, check=False)
    own = [line for line in lines_of(done.stdout) if TORCHSERVES_OWN.match(line)]
    assert own == ["[METRICS]ours.unit:1", f"[METRICS]theirs.unit:1|#k:a {FORGED}"], done
    assert not any(TORCHSERVES_OWN.match(line) for line in lines_of(done.stderr))
    assert done.stdout.count(FORGED.encode()) == 5
    assert done.stderr.count(FORGED.encode()) >= 3
