"""What a load leaves to be measured, measured while the model answers: by a process apart, at low priority.

Of the workers that miss the same measurement, on one machine, one starts that process; the others wait for what it
keeps in the cache. Why a process and no thread: docs/decisions/first-answer.md.
"""

from __future__ import annotations

import logging
import os
import pickle
import shlex
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import smartbatch_worker
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.environment import FORKED_PYTHON
from smartbatch_worker.contract.shapes import ItemShape
from smartbatch_worker.process import cache as kept_files

logger = logging.getLogger(__name__)

PROGRAM = "smartbatch_worker.forward.apart"
"""What the process runs."""
NICENESS = 10
"""Where all cores are busy it gets a tenth of one; where one is idle, that one."""
TIMEOUT_S = 900.0
_KILLED_FIRST = "500"
"""Where memory is short, as Linux counts it: this process goes before a worker does."""


class NotMeasuredError(Exception):
    """It could not be measured: the model answers as it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to measure."""

    config: WorkerConfig
    model_dir: Path
    cache_dir: Path
    max_batch_size: int
    samples: Sequence[tuple[ItemShape, Any]]
    """Of a model with named inputs: an item's shape, and a batch of as many as are ever measured at once."""
    compared: Sequence[Any]
    """Of a model with named inputs: batches on which whatever computes it has to answer alike."""
    num_threads: int
    """What a worker computes with where all of them do."""


def have_measured(order: Order, key: str, is_kept: Callable[[], bool]) -> None:
    """Have it measured, which takes minutes where all cores are busy.

    Args:
        order: what to measure.
        key: in hexadecimal, the same for all workers that miss the same.
        is_kept: whether another has measured it meanwhile.

    Raises:
        NotMeasuredError: the process failed, or what it measured could not be kept.
        OSError: nothing can be written in the cache, or no process started.
    """
    with kept_files.alone(order.cache_dir, key):
        if not is_kept():
            try:
                _measure(order)
            except NotMeasuredError as error:
                if not is_kept():
                    raise
                logger.warning("it was measured: %s", error)
    if not is_kept():
        raise NotMeasuredError("what the process measured is not kept: it says why")


def _measure(order: Order) -> None:
    """What the process says goes into this worker's log."""
    package = Path(smartbatch_worker.__file__).parent.parent
    python = shlex.split(os.environ.get(FORKED_PYTHON, "")) or [sys.executable]
    process = subprocess.Popen(
        [*python, "-m", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=package,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (package, *filter(None, sys.path))))},
    )
    timer = threading.Timer(TIMEOUT_S, process.kill)
    timer.daemon = True
    timer.start()
    last = deque[str](maxlen=3)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        give_way(process.pid)
        with suppress(BrokenPipeError):  # it has ended, and says why
            pickle.dump(order, process.stdin)
            process.stdin.flush()  # and left open: its end tells the process that this worker is gone
        for line in process.stdout:
            last.append(line.decode(errors="replace").rstrip())
            logger.info("measuring: %s", last[-1])
        status = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()
    if status:
        raise NotMeasuredError(f"the process for it ended with {status}: {' | '.join(last)}")


def give_way(pid: int) -> None:
    """Have a process get what others leave; one that was forked elsewhere does so by itself, too."""
    with suppress(OSError):  # it has ended, or this system has no such thing
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        Path(f"/proc/{pid}/oom_score_adj").write_text(_KILLED_FIRST, encoding="ascii")
