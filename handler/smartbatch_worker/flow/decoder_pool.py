"""What decodes the rows of a batch: threads, and for usual JPEGs a GPU where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

import torch

from smartbatch_worker import formats
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import Decoded
from smartbatch_worker.flow.rows import Row, check_deadline

logger = logging.getLogger(__name__)

MOST_FOR_PICTURES = 4
"""Threads. Image decoders release the GIL some twenty times a picture, and each time that it is taken back all other
threads are in the way: on 16 cores JPEGs were decoded at 293 a second by one thread, 493 by two, 677 by four, 417 by
sixteen; by sixteen processes at 3,971. More cores are used by more workers."""
QUICK_BYTES = 2**20
"""A body that is hardly more than copied takes less time than to hand it to a thread, unless it is long."""

_MAX_MESSAGE_LETTERS = 200
_NUM_COLOURS = 3


class DecoderPool:
    """Decodes a batch's rows in as many threads as the forward may use, and pictures in MOST_FOR_PICTURES at most.

    Args:
        gpu: reads what it can before; None: all is decoded on the CPU.
        is_customised: a user's `preprocess_item` decodes, which may take long whatever the body is.
    """

    def __init__(self, gpu: GpuDecoder | None = None, *, is_customised: bool = False) -> None:
        self._gpu, self._is_customised = gpu, is_customised
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    @classmethod
    def of(cls, config: WorkerConfig, device: torch.device, overridden: Set[str]) -> DecoderPool:
        """A handler's.

        Args:
            config: of the model.
            device: where it computes.
            overridden: the handler's methods that are a user's own: they are given what they were promised, which is
                bodies, and tensors on the CPU.
        """
        own = overridden & {"preprocess_item", "inference"}
        if own and config.image_decoder == "gpu":
            logger.warning("image_decoder: gpu is not used: the handler has its own %s", min(own))
        return cls(None if own else GpuDecoder.of(config, device), is_customised="preprocess_item" in own)

    def run(self, decode: Callable[[Row], None], rows: Sequence[Row]) -> None:
        """Attempt `decode` on every row that the GPU leaves; a failure stays in its row."""
        if self._gpu is not None:
            rows = self._gpu.run(rows)
        at_once: list[Row] = []
        slow: list[Row] = []
        most = torch.get_num_threads()
        for row in rows:
            found = None if self._is_customised or most == 1 else _format_of(row)
            (at_once if found and found.is_copied and len(row.body) <= QUICK_BYTES else slow).append(row)
            if found and found.is_image:
                most = min(most, MOST_FOR_PICTURES)
        size = min(most, len(slow))
        for row in rows if size <= 1 else at_once:
            row.attempt(decode, row)
        if size <= 1:
            return
        if self._executor is None or self._size < size:
            self._executor, self._size = _decoders(size), size

        def decode_some(start: int) -> None:
            for row in slow[start::size]:
                row.attempt(decode, row)

        list(self._executor.map(decode_some, range(size)))


class GpuDecoder:
    """Reads usual JPEGs of many rows at once, on the GPU that computes.

    Args:
        config: of the model.
        device: that GPU.
    """

    def __init__(self, config: WorkerConfig, device: torch.device) -> None:
        self._config, self._device = config, device

    @classmethod
    def of(cls, config: WorkerConfig, device: torch.device) -> GpuDecoder | None:
        """The one that `image_decoder: gpu` asks for; None, and a line in the log, where there can be none."""
        if config.image_decoder != "gpu":
            return None
        takes_colours = config.inputs is None and config.takes_pictures and len(config.image_mean) == _NUM_COLOURS
        if device.type != "cuda" or not takes_colours:
            logger.warning("image_decoder: gpu needs a GPU and one input of colour pictures: JPEGs are read on the CPU")
            return None
        return cls(config, device)

    def run(self, rows: Sequence[Row]) -> list[Row]:
        """Decode what it can.

        Returns:
            The rows that are left to be decoded as ever.
        """
        opened = [(row, jpeg) for row in rows if (jpeg := self._open(row)) is not None]
        try:
            read = formats.read_on_gpu([jpeg for _, jpeg in opened], self._config, self._device)
        except Exception as error:  # no memory, most of all: the CPU has its own
            logger.warning("JPEGs are left to the CPU: %s", str(error)[:_MAX_MESSAGE_LETTERS])
            read = [None] * len(opened)
        for (row, _), pixels in zip(opened, read, strict=True):
            if pixels is not None:
                row.attempt(row.take, Decoded([pixels], True, False), self._config)
        return [row for row in rows if not row.items and row.error is None]

    def _open(self, row: Row) -> formats.UsualJpeg | None:
        if "content-encoding" in row.headers:
            return None
        row.attempt(check_deadline, row)
        try:
            return None if row.error is not None else formats.open_usual_jpeg(row.body, self._config)
        except RowError:  # what is wrong with it is told by who decodes it next
            return None


def _format_of(row: Row) -> formats.Format | None:
    """None where only decoding tells."""
    if "content-encoding" in row.headers:
        return None
    return formats.recognise(row.body, row.headers.get("content-type", "").lower())


def _decoders(size: int) -> ThreadPoolExecutor:
    # One thread an operator in here: the rows are already spread over the cores.
    return ThreadPoolExecutor(size, "smartbatch-decode", initializer=lambda: torch.set_num_threads(1))
