"""run_isolated: one bad item costs only itself, and few extra forwards."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from smartbatch_worker.errors import DeviceLost, RowError
from smartbatch_worker.flow.recover import (
    RAISE_CEILING_AFTER,
    MemoryCeilings,
    is_lost,
    is_out_of_memory,
    run_isolated,
)

SHAPE = (4,)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Model:
    """Doubles numbers; raises for poison ones, and for more than `fits` at once."""

    def __init__(self, poison: set[int] = frozenset(), fits: int = 10**9, error: type[Exception] = KeyError) -> None:  # type: ignore[assignment]
        self.poison, self.fits, self.error = poison, fits, error
        self.calls = 0

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls += 1
        if len(items) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.poison & set(items):
            raise self.error("size mismatch" if self.error is RuntimeError else "boom")
        return [2 * item for item in items]


def isolate(model: Model, count: int) -> tuple[list[object], list[str], MemoryCeilings]:
    splits: list[str] = []
    ceilings = MemoryCeilings()
    return run_isolated(model, range(count), SHAPE, ceilings, splits.append, CPU), splits, ceilings


def test_a_clean_batch_costs_one_forward() -> None:
    model = Model()
    answers, splits, _ = isolate(model, 32)
    assert answers == [2 * i for i in range(32)]
    assert model.calls == 1
    assert splits == []


@pytest.mark.parametrize("poison", [0, 13, 31])
def test_one_poison_item_costs_at_most_11_extra_forwards(poison: int) -> None:
    model = Model({poison})
    answers, splits, _ = isolate(model, 32)
    assert [a for i, a in enumerate(answers) if i != poison] == [2 * i for i in range(32) if i != poison]
    error = answers[poison]
    assert isinstance(error, RowError)
    assert error.status == 500
    assert model.calls - 1 <= 11
    assert set(splits) == {"poison"}


def test_shape_errors_are_the_clients() -> None:
    answers, _, _ = isolate(Model({2}, error=RuntimeError), 4)
    assert isinstance(answers[2], RowError)
    assert answers[2].status == 422
    assert "size mismatch" in answers[2].message


def test_out_of_memory_halves_and_remembers() -> None:
    model = Model(fits=5)
    answers, splits, ceilings = isolate(model, 16)
    assert answers == [2 * i for i in range(16)]
    assert set(splits) == {"oom"}
    assert ceilings.limit(SHAPE, 16) == 4
    assert ceilings.limit((5,), 16) == 16


def test_the_ceiling_rises_again_slowly() -> None:
    ceilings = MemoryCeilings()
    ceilings.failed(SHAPE, 8)
    for _ in range(RAISE_CEILING_AFTER - 1):
        ceilings.succeeded(SHAPE, 4)
    assert ceilings.limit(SHAPE, 32) == 4
    ceilings.succeeded(SHAPE, 4)
    assert ceilings.limit(SHAPE, 32) == 8


def test_one_item_that_never_fits_gets_507() -> None:
    answers, _, _ = isolate(Model(fits=0), 1)
    assert isinstance(answers[0], RowError)
    assert answers[0].status == 507


def test_a_lost_gpu_fails_all_and_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    def run(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        fail()
        return []

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(DeviceLost, match="this worker starts anew"):
        run_isolated(run, range(8), SHAPE, MemoryCeilings(), lambda reason: None, GPU)
    assert calls == [8]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert not is_lost(GPU)
    answers = run_isolated(run, range(2), SHAPE, MemoryCeilings(), lambda reason: None, GPU)
    assert [isinstance(answer, RowError) for answer in answers] == [True, True]


def test_the_word_cuda_fails_nobody_else() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if 1 in items:
            raise RuntimeError("CUDA error: device-side assert")
        return list(items)

    answers = run_isolated(run, range(3), SHAPE, MemoryCeilings(), lambda reason: None, CPU)
    assert answers[0] == 0
    assert answers[2] == 2
    assert isinstance(answers[1], RowError)


def test_cpu_allocation_failures_are_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))
