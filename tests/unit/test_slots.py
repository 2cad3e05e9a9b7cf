"""bench.experiments.slots: answers in order, no buffer written while it is computed from, failures in their turn."""

from __future__ import annotations

import threading

import pytest
import torch

from bench.experiments.slots import Slots

CPU = torch.device("cpu")
NUM_BATCHES = 7


def fill(number: int, host: torch.Tensor) -> int:
    """Batches of one and two rows, all of their own number."""
    host.fill_(number)
    return 1 + number % 2


@pytest.mark.parametrize("num", [1, 2, 3])
def test_answers_come_in_order(num: int) -> None:
    slots: Slots[int] = Slots(num, (2, 3), torch.float32, CPU, fill, lambda batch: batch)
    answers = list(slots.run(range(NUM_BATCHES)))
    assert [answer.shape for answer in answers] == [(1 + number % 2, 3) for number in range(NUM_BATCHES)]
    assert [set(answer.flatten().tolist()) for answer in answers] == [{number} for number in range(NUM_BATCHES)]


def test_the_next_batch_is_loaded_while_one_is_computed_and_not_into_its_buffer() -> None:
    loaded = [threading.Event() for _ in range(NUM_BATCHES)]

    def load(number: int, host: torch.Tensor) -> int:
        host.fill_(number)
        loaded[number].set()
        return 1

    def forward(batch: torch.Tensor) -> torch.Tensor:
        number = int(batch[0])
        assert loaded[min(number + 1, NUM_BATCHES - 1)].wait(60)
        assert int(batch[0]) == number
        return batch

    slots: Slots[int] = Slots(2, (1,), torch.float32, CPU, load, forward)
    assert [int(answer) for answer in slots.run(range(NUM_BATCHES))] == list(range(NUM_BATCHES))


def test_what_fails_fails_in_its_turn() -> None:
    def load(number: int, host: torch.Tensor) -> int:
        if number == 2:
            raise ValueError("the third")
        return fill(number, host)

    slots: Slots[int] = Slots(3, (2,), torch.float32, CPU, load, lambda batch: batch)
    answers = slots.run(range(NUM_BATCHES))
    assert [int(next(answers)[0]) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(answers)
    assert [int(answer[0]) for answer in slots.run([4, 5])] == [4, 5]


def test_who_reads_no_further_stops_the_loader() -> None:
    slots: Slots[int] = Slots(2, (2,), torch.float32, CPU, fill, lambda batch: batch)
    answers = slots.run(range(10**9))
    assert int(next(answers)[0]) == 0
    answers.close()  # type: ignore[attr-defined]
    assert "smartbatch-slots" not in {thread.name for thread in threading.enumerate()}


def test_no_slot_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="there must be a slot, got 0"):
        Slots(0, (1,), torch.float32, CPU, fill, lambda batch: batch)
