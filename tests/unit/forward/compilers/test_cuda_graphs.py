"""Recorded forwards. Without a GPU, a "recording" runs the forward on the same memory at each replay, as graphs do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward.choose import compile_forward
from smartbatch_worker.forward.compilers.cuda_graphs import GraphedForward, Recorder, recorded_sizes
from smartbatch_worker.forward.measurements import Measurements

CPU = torch.device("cpu")
SHAPE = (3, 4, 5)
Forward = Callable[[torch.Tensor], Any]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def rerun(forward: Forward, batch: torch.Tensor) -> tuple[Callable[[], None], torch.Tensor]:
    """Answers always in the same memory, computed from what the input's memory holds."""
    output = forward(batch)

    def replay() -> None:
        output.copy_(forward(batch))

    return replay, output


@pytest.fixture(params=[("cpu", rerun), pytest.param(("cuda", None), marks=needs_gpu)], ids=["cpu", "gpu"])
def graphed(request: pytest.FixtureRequest) -> tuple[GraphedForward, Forward, torch.device, list[int]]:
    """Of up to six items: the graphs, the forward itself, where it runs, and the sizes it was called with."""
    name, record = request.param
    sizes: list[int] = []

    def forward(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return 2 * batch.sum((2, 3)) + 3

    made = GraphedForward(forward, SHAPE, 6, torch.device(name), record)
    sizes.clear()
    return made, forward, torch.device(name), sizes


def batch_of(count: int, device: torch.device, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed)).to(device)


def test_less_than_a_third_is_padding() -> None:
    assert recorded_sizes(1) == [1]
    assert recorded_sizes(8) == [1, 2, 3, 4, 6, 8]
    assert recorded_sizes(25) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 25]
    for largest in range(1, 130):
        sizes = recorded_sizes(largest)
        assert sizes[-1] == largest
        assert all(min(size for size in sizes if size >= count) * 2 < count * 3 for count in range(1, largest + 1))


def test_any_number_of_items_is_answered_as_the_forward_does(
    graphed: tuple[GraphedForward, Forward, torch.device, list[int]],
) -> None:
    made, forward, device, sizes = graphed
    for count in (6, 5, 1, 3, 2, 4):  # after more items than its own, whose rows are still there
        batch = batch_of(count, device, seed=count)
        answers = made(batch)
        sizes.clear()
        torch.testing.assert_close(answers, forward(batch))


def test_answers_are_not_overwritten_by_the_next(
    graphed: tuple[GraphedForward, Forward, torch.device, list[int]],
) -> None:
    made, forward, device, _ = graphed
    first, second = batch_of(4, device, seed=1), batch_of(4, device, seed=2)
    answers = made(first)
    made(second)
    torch.testing.assert_close(answers, forward(first))


@pytest.mark.parametrize(("count", "shape"), [(7, SHAPE), (2, (3, 4, 6))], ids=["more items", "another shape"])
def test_what_was_not_recorded_runs_as_it_did(
    graphed: tuple[GraphedForward, Forward, torch.device, list[int]], count: int, shape: tuple[int, ...]
) -> None:
    made, forward, device, sizes = graphed
    batch = batch_of(count, device, shape)
    assert made.padding(batch.shape) is None
    answers = made(batch)
    assert sizes == [count]
    torch.testing.assert_close(answers, forward(batch))


def test_padding_is_counted_in_items(graphed: tuple[GraphedForward, Forward, torch.device, list[int]]) -> None:
    made = graphed[0]
    assert [made.padding((count, *SHAPE)) for count in range(1, 8)] == [0, 0, 0, 0, 1, 0, None]


def test_dicts_and_tuples_keep_their_form() -> None:
    def forward(batch: torch.Tensor) -> dict[str, Any]:
        return {"sum": batch.sum((1, 2, 3)), "both": (batch + 1, batch - 1)}

    def record(forward: Forward, batch: torch.Tensor) -> tuple[Callable[[], None], Any]:
        output = forward(batch)

        def replay() -> None:
            again = forward(batch)
            output["sum"].copy_(again["sum"])
            for old, new in zip(output["both"], again["both"], strict=True):
                old.copy_(new)

        return replay, output

    batch = batch_of(3, CPU)
    torch.testing.assert_close(GraphedForward(forward, SHAPE, 4, CPU, record)(batch), forward(batch))


def never_again(forward: Forward, batch: torch.Tensor) -> tuple[Callable[[], None], Any]:
    return lambda: None, forward(batch)


@pytest.mark.parametrize(
    ("forward", "record", "message"),
    [
        (lambda batch: batch.mean(), rerun, r"one row an item; 4 items gave an output of \[\]"),
        (lambda batch: batch[:1], rerun, r"one row an item; 4 items gave an output of \[1, 3, 4, 5\]"),
        (lambda batch: list(batch), never_again, "one row an item; this one gives a list"),
        (lambda batch: batch + 1, never_again, "a graph of 4 items answers otherwise than the model"),
    ],
    ids=["no rows", "fewer rows", "a list", "a recording that does nothing"],
)
def test_a_model_that_cannot_be_recorded_is_refused(forward: Forward, record: Recorder, message: str) -> None:
    with pytest.raises(ValueError, match=f"compile: cuda_graphs.*{message}"):
        GraphedForward(forward, SHAPE, 4, CPU, record)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2).eval()
    config = WorkerConfig(model="model.py", compile="cuda_graphs", input_shape=(2,))
    with pytest.raises(ValueError, match="cuda_graphs needs a GPU and a known input_shape; this is cpu"):
        compile_forward(module, config, CPU, (2,), Measurements(tmp_path))


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_is_recorded_on_a_gpu(precision: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    module = torchvision.models.resnet18(weights=None).eval().to(device, memory_format=torch.channels_last)
    config = WorkerConfig(compile="cuda_graphs", precision=precision)
    batch = batch_of(5, device, (3, 96, 96))
    expected = module(batch)
    made = compile_forward(module, config, device, (3, 96, 96), Measurements(tmp_path), largest=8)
    assert (made.name, made.precision) == ("cuda_graphs", precision)
    bound = (1e-2 if precision == "fp16" else 1e-3) * float(expected.abs().max())
    torch.testing.assert_close(made.forward(batch).float(), expected, rtol=0, atol=bound)
