"""Batch size, delay and worker count, as flags or as the original's environment variables."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from smartbatch_worker.contract.machine import num_cores

from smartbatch.errors import UsageError

DEFAULT_BATCH_SIZE = 32
DEFAULT_DELAY_MS = 10
_SMI_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How one model is to be registered.

    Raises:
        UsageError: on a value below 1.
    """

    batch_size: int
    """Requests a batch may hold."""
    max_batch_delay_ms: int
    """How long the first request of a batch may wait for others. At least 1: at 0 TorchServe caps batches at 2."""
    workers: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_batch_delay_ms", "workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")


def resolve_batching(
    batch_size: int | None, max_delay_ms: float | None, workers: int | None, env: Mapping[str, str] = os.environ
) -> tuple[Batching, list[str]]:
    """Flags beat MAX_BATCH_SIZE and MAX_WAIT_TIME (seconds), which beat the defaults.

    Returns:
        The batching, and a line for each value that had to be rounded.
    """
    if batch_size is None:
        batch_size = int(_number(env, "MAX_BATCH_SIZE", DEFAULT_BATCH_SIZE, whole=True))
    if max_delay_ms is None:
        max_delay_ms = _number(env, "MAX_WAIT_TIME", DEFAULT_DELAY_MS / 1000) * 1000
    rounded, notes = whole_delay_ms(max_delay_ms)
    workers = default_workers() if workers is None else workers
    return Batching(batch_size=batch_size, max_batch_delay_ms=rounded, workers=workers), notes


def whole_delay_ms(delay_ms: float) -> tuple[int, list[str]]:
    """A delay that TorchServe takes: whole milliseconds, at least 1.

    Returns:
        The delay, and a line that says why if it had to be rounded.

    Raises:
        UsageError: it is negative or no number.
    """
    if delay_ms < 0 or not math.isfinite(delay_ms):
        raise UsageError(f"the delay must be 0 ms or more, got {delay_ms:g} ms")
    rounded = max(1, round(delay_ms))
    if math.isclose(rounded, delay_ms, rel_tol=1e-9):
        return rounded, []
    why = "TorchServe caps batches at 2 without a delay" if delay_ms < 0.5 else "TorchServe takes whole ms"
    return rounded, [f"delay {delay_ms:g} ms becomes {rounded} ms: {why}"]


def default_workers() -> int:
    """One worker per GPU; without a GPU one per core, up to four.

    A worker of one thread never waits at a barrier for a sibling that lost its core to the frontend or to the load,
    and one worker decodes while another computes. Beyond four the copies of the weights cost more than they bring.
    """
    return count_gpus() or min(4, num_cores())


def count_gpus() -> int:
    """NVIDIA GPUs, counted as TorchServe counts them, by asking nvidia-smi.

    Raises:
        UsageError: it is there and does not run, or does not answer.
    """
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return 0
    try:
        listing = subprocess.run(
            [smi, "-L"], capture_output=True, encoding="utf-8", errors="replace", timeout=_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise UsageError(f"cannot count GPUs ({e}): give --workers") from e
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def _number(env: Mapping[str, str], name: str, default: float, *, whole: bool = False) -> float:
    text = env.get(name, "")
    if not text:
        return default
    try:
        return int(text) if whole else float(text)
    except ValueError as e:
        raise UsageError(f"{name} must be a {'whole ' if whole else ''}number, got {text!r}") from e
