"""Overlap within one worker: batch i + 1 is decoded and copied while batch i is computed.

    python -m bench.experiments.slots [--slots 1,2,3] [--batches 24] [--decode-ms 40] [--forward-ms 40]

A slot is a pinned buffer, a stream and an event. A loader thread fills free slots; the caller's thread copies a full
one to the device and computes on the slot's stream; its buffer is free again when its event has happened. With one
slot it is the serial way. Here a model that sleeps stands for the device; `bench.gpu_suite` runs it on a real one.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

Work = TypeVar("Work")


@dataclass(eq=False)
class _Slot:
    """One batch's way to the device."""

    host: torch.Tensor
    stream: Any = None
    event: Any = None
    count: int = 0
    failed: BaseException | None = None


class Slots(Generic[Work]):
    """Run batches through slots, in order.

    Args:
        num: of slots; 1 is the serial way.
        shape: of a full batch, [N, ...].
        dtype: of its numbers on the host.
        device: where the forward runs.
        load: fills the first rows of a host buffer and returns how many; called in the loader's thread.
        forward: from a batch on the device to its answers there.
    """

    def __init__(
        self,
        num: int,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        load: Callable[[Work, torch.Tensor], int],
        forward: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        if num < 1:
            raise ValueError(f"there must be a slot, got {num}")
        self._device, self._load, self._forward = device, load, forward
        self._is_cuda = device.type == "cuda"
        self._slots = [_Slot(torch.empty(tuple(shape), dtype=dtype, pin_memory=self._is_cuda)) for _ in range(num)]
        if self._is_cuda:
            for slot in self._slots:
                slot.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
                slot.event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def run(self, batches: Iterable[Work]) -> Iterator[torch.Tensor]:
        """Answers on the host, one a batch, in order.

        Raises:
            Exception: what `load` or `forward` raised for the batch whose turn it is.
        """
        free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        full: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        for each in self._slots:
            free.put(each)
        loader = threading.Thread(
            target=self._fill, args=(iter(batches), free, full), name="smartbatch-slots", daemon=True
        )
        loader.start()
        computing: list[tuple[_Slot, torch.Tensor]] = []
        try:
            while (slot := full.get()) is not None:
                if slot.failed is not None:
                    while computing:
                        yield self._answers(*computing.pop(0), free)
                    raise slot.failed
                computing.append((slot, self._compute(slot)))
                # The device is given its next batch before the last one's answers are waited for.
                if len(computing) == len(self._slots) or not self._is_cuda:
                    yield self._answers(*computing.pop(0), free)
            while computing:
                yield self._answers(*computing.pop(0), free)
        finally:  # also where nobody reads on
            free.put(None)
            loader.join()

    def _fill(
        self,
        batches: Iterator[Work],
        free: queue.SimpleQueue[_Slot | None],
        full: queue.SimpleQueue[_Slot | None],
    ) -> None:
        for batch in batches:
            if (taken := free.get()) is None:
                return
            taken.failed = None
            try:
                taken.count = self._load(batch, taken.host)
            except BaseException as error:
                taken.failed = error
            full.put(taken)
        full.put(None)

    def _compute(self, slot: _Slot) -> torch.Tensor:
        with torch.cuda.stream(slot.stream) if self._is_cuda else nullcontext(), torch.inference_mode():
            batch = slot.host[: slot.count]
            answers = self._forward(batch.to(self._device, non_blocking=True) if self._is_cuda else batch)
            if self._is_cuda:
                answers = answers.to("cpu", non_blocking=True)
                slot.event.record(slot.stream)
        return answers

    def _answers(self, slot: _Slot, answers: torch.Tensor, free: queue.SimpleQueue[_Slot | None]) -> torch.Tensor:
        if self._is_cuda:
            slot.event.synchronize()
        else:
            answers = answers.clone()  # it may lie in the slot's own buffer
        free.put(slot)
        return answers


def seconds_of(num_slots: int, num_batches: int, decode_s: float, forward_s: float) -> float:
    """Of a run whose decoding and forward sleep, as a device and a decoder in C let Python do."""

    def load(number: int, host: torch.Tensor) -> int:
        time.sleep(decode_s)
        host.fill_(number)
        return len(host)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        time.sleep(forward_s)
        return batch

    slots: Slots[int] = Slots(num_slots, (1,), torch.float32, torch.device("cpu"), load, forward)
    started = time.perf_counter()
    answers = [answer.item() for answer in slots.run(range(num_batches))]
    took = time.perf_counter() - started
    assert answers == list(range(num_batches))
    return took


def main(argv: Sequence[str] | None = None) -> int:
    """Print seconds and ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="1,2,3")
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--decode-ms", type=float, default=40)
    parser.add_argument("--forward-ms", type=float, default=40)
    args = parser.parse_args(argv)
    took = {
        num: seconds_of(num, args.batches, args.decode_ms / 1000, args.forward_ms / 1000)
        for num in map(int, args.slots.split(","))
    }
    serial = took.get(1)
    ratios = {} if serial is None else {num: round(serial / seconds, 3) for num, seconds in took.items()}
    print(json.dumps({"seconds": {num: round(s, 3) for num, s in took.items()}, "times_the_serial_way": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
