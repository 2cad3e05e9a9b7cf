"""How long a forward takes on this machine: timed once, kept beside the weights for the workers that start later."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from smartbatch_worker.contract.machine import cpu_name

logger = logging.getLogger(__name__)

MIN_CPU_SHARE = 0.25
"""Of the time that a forward takes: what a thread that computes it is on a CPU for."""
CACHE_FILE = "smartbatch-calibration.json"
_MAX_CACHE_BYTES = 1 << 20


def remember(
    model_dir: Path, key: str, measure_it: Callable[[], Mapping[Any, float]], is_name: Callable[[str], bool]
) -> dict[str, float]:
    """The seconds measured under `key` on this machine, or measured now and kept for the next worker.

    Workers that start together take turns: the first measures undisturbed, the others read. What is kept there but is
    no measurement is measured again; where nothing can be kept, each worker measures for itself.

    Args:
        model_dir: where the file is.
        key: of the measurement.
        measure_it: seconds by name.
        is_name: whether a name is one that `measure_it` might give.
    """
    full_key = f"{key} threads={torch.get_num_threads()} torch={torch.__version__} {cpu_name()}"
    with _kept_file(model_dir) as file:
        cache = _read_cache(file)
        if not _is_measurement(cache.get(full_key), is_name):
            cache[full_key] = {str(name): seconds for name, seconds in measure_it().items()}
            try:
                file.seek(0)
                file.truncate()
                file.write(json.dumps(cache, indent=1).encode())
                file.flush()
            except OSError as error:
                logger.warning("what was measured is not kept: %s", error)
        measured: dict[str, float] = cache[full_key]
        return measured


@contextmanager
def _kept_file(model_dir: Path) -> Iterator[IO[bytes]]:
    """The file of measurements, ours alone; a copy in memory where it cannot be written."""
    try:
        # Unbuffered: closing it then writes nothing, so that a full disk fails where it is caught.
        file: IO[bytes] = (model_dir / CACHE_FILE).open("a+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        logger.warning("what is measured is not kept: %s", error)
        file = io.BytesIO(_content(model_dir / CACHE_FILE))
    with file:
        file.seek(0)
        yield file


def _content(path: Path) -> bytes:
    """Of a file that may only be read; nothing where there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read_cache(file: IO[bytes]) -> dict[str, Any]:
    try:
        cache = json.loads(file.read(_MAX_CACHE_BYTES) or b"{}")
    except ValueError:
        return {}
    return cache if isinstance(cache, dict) else {}


def _is_measurement(entry: Any, is_name: Callable[[str], bool]) -> bool:
    """Whether an entry of the file is seconds by name, as written."""
    return (
        isinstance(entry, dict)
        and len(entry) > 0
        and all(is_name(name) for name in entry)
        and all(isinstance(seconds, float) and 0 <= seconds < math.inf for seconds in entry.values())
    )


def time_forward(forward: Callable[[torch.Tensor], Any], batch: torch.Tensor, device: torch.device) -> float:
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
