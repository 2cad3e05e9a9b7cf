"""How long a forward takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

MIN_CPU_SHARE = 0.25
"""Of the time that a forward takes: what a thread that computes it is on a CPU for."""


def time_forward(forward: Callable[[Any], Any], batch: Any, device: torch.device) -> float:
    """Seconds of one forward, on the GPU until it is done.

    Of CPU time where one thread computes it: on a busy machine other programs' turns are not the forward's. Where that
    thread hardly computes (it waits for something, or got next to no turn), of wall time.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    forward(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    is_computing = device.type == "cpu" and torch.get_num_threads() == 1 and cpu_seconds > MIN_CPU_SHARE * seconds
    return cpu_seconds if is_computing else seconds
