"""Run a micro-batch so that one bad item costs only itself.

    out of memory ─▶ halve, run the halves, remember the ceiling for this shape, raise it again slowly
    the GPU lost  ─▶ all fail: whose item did it cannot be told, and nothing runs there before the worker starts anew
    anything else ─▶ bisect until only the poison items fail

A micro-batch of n with one poison item costs at most 2·log2(n) forwards more than a clean one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from smartbatch_worker.contract.shapes import ItemShape, spelled
from smartbatch_worker.errors import DeviceLost, DoesNotFit, ModelFailed, ModelRejected, RowError
from smartbatch_worker.flow.failures import cause_of

logger = logging.getLogger(__name__)

RAISE_CEILING_AFTER = 64
"""Forwards without an out-of-memory error, at the ceiling, before it is doubled."""


class MemoryCeilings:
    """The largest micro-batch that fits in memory, per item shape; learned from failures."""

    def __init__(self) -> None:
        self._ceilings: dict[ItemShape, int] = {}
        self._successes: dict[ItemShape, int] = {}

    def limit(self, shape: ItemShape, size: int) -> int:
        """`size`, or less where a smaller micro-batch is known to be all that fits."""
        return min(size, self._ceilings.get(shape, size))

    def failed(self, shape: ItemShape, size: int) -> None:
        """A micro-batch of `size` did not fit."""
        self._ceilings[shape] = max(1, min(size // 2, self._ceilings.get(shape, size)))
        self._successes[shape] = 0
        logger.warning("out of memory at %d items of %s: now at most %d", size, spelled(shape), self._ceilings[shape])

    def succeeded(self, shape: ItemShape, size: int) -> None:
        """A micro-batch of `size` fitted; often enough at the ceiling, and the ceiling is tried higher."""
        ceiling = self._ceilings.get(shape)
        if ceiling is None or size < ceiling:
            return
        self._successes[shape] += 1
        if self._successes[shape] >= RAISE_CEILING_AFTER:
            self._ceilings[shape] = ceiling * 2
            self._successes[shape] = 0

    def as_dict(self) -> dict[str, int]:
        """Ceilings by shape, for status."""
        return {spelled(shape): ceiling for shape, ceiling in self._ceilings.items()}


def run_isolated(
    run: Callable[[Sequence[Any]], Sequence[Any]],
    items: Sequence[Any],
    shape: ItemShape,
    ceilings: MemoryCeilings,
    on_split: Callable[[str], None],
    device: torch.device,
) -> list[Any]:
    """Run items together, splitting on failure.

    Args:
        run: one forward; takes items, gives one answer each, in order. A RowError of its own fails all of them.
        items: of one shape.
        shape: of one item.
        ceilings: learns what fits.
        on_split: told "oom" or "poison" at every split.
        device: where `run` computes.

    Returns:
        One entry an item, in order: its answer, or the RowError that only it deserves.

    Raises:
        DeviceLost: the device computes nothing any more.
    """
    try:
        answers = list(run(items))
    except RowError as error:
        # The model's fault whatever the items are, as a wrong number of answers. Fewer at a time might give a number
        # that happens to fit, and with it one client's answer to another.
        logger.error("the model failed on %d items of shape %s: %s", len(items), spelled(shape), error)
        return [error] * len(items)
    except Exception as error:  # a model may raise anything, and no item may fail for another's sake
        if is_out_of_memory(error):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            ceilings.failed(shape, len(items))
            on_split("oom")
            if len(items) == 1:
                return [DoesNotFit(f"one item of shape {_told(shape)} does not fit in memory")]
        elif is_lost(device):
            logger.exception("the GPU is lost, and with it all that this worker has there")
            raise DeviceLost("the GPU failed while it computed a batch; this worker starts anew") from error
        else:
            if len(items) == 1:
                logger.warning("the model failed on one item of shape %s", spelled(shape), exc_info=True)
                return [blame_item(error, shape)]
            on_split("poison")
    else:
        ceilings.succeeded(shape, len(items))
        return answers
    middle = len(items) // 2
    return [
        answer
        for half in (items[:middle], items[middle:])
        for answer in run_isolated(run, half, shape, ceilings, on_split, device)
    ]


def is_lost(device: torch.device) -> bool:
    """Whether a GPU is of no use to this process any more.

    After an assertion in a kernel, as of an index beyond a table, or an address that is not there, every call fails
    until the process ends. Waiting for the GPU is such a call, and fails for nothing else.
    """
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure is the device's or the host's allocator giving up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "not enough memory" in text or "out of memory" in text.lower()
    )


def blame_item(error: Exception, shape: ItemShape) -> RowError:
    """The model's failure on one item alone, as that row's error: 422 for shapes and values, else 500."""
    cause = cause_of(error)
    message = f"the model failed on this item of shape {_told(shape)}: {cause}"
    return ModelRejected(message) if cause.is_about_shape else ModelFailed(message)


def _told(shape: ItemShape) -> str:
    """For clients: [3, 224, 224], or the names and sizes of inputs."""
    return spelled(shape) if shape and isinstance(shape[0], tuple) else str(list(shape))
