"""CUDA graphs: a forward's kernels recorded once and launched by one call, for batches of a few sizes.

A small model's kernels are done before Python has launched the next ones; a recorded graph needs no Python. A graph
has one size, so a batch is padded to the next recorded one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from smartbatch_worker.forward.compilers import plain
from smartbatch_worker.forward.compilers.compiler import Built, Compiler, Task
from smartbatch_worker.forward.precision import Forward
from smartbatch_worker.kernels.layout import memory_format_of

Recorder = Callable[[Forward, torch.Tensor], tuple[Callable[[], None], Any]]
"""From a forward and the memory of its input to what runs it again, and the memory that its output is then in."""

NUM_WARM_UPS = 3
"""Calls before a recording: libraries choose and set up their kernels in the first ones, which must not be recorded."""

_NEEDS = "compile: cuda_graphs needs a model that gives a tensor, or a dict or tuple of them, with one row an item"

TOLERANCE = 1e-2
"""Of the largest answer: how far a graph's answers may be from the forward's. A wrong graph is off by far more."""


def why_not(task: Task) -> str | None:
    """It records for one shape, on a GPU."""
    if task.shape is None or task.device.type != "cuda":
        return f"compile: cuda_graphs needs a GPU and a known input_shape; this is {task.device}"
    return None


def build(task: Task) -> Built:
    """Record what PyTorch does."""
    assert task.shape is not None
    graphed = GraphedForward(plain.build(task).forward, task.shape, task.largest, task.device)
    return Built(graphed, graphed.padding)


def recorded_sizes(largest: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24 … `largest`: less than a third of what runs is padding."""
    powers = [2**power for power in range(largest.bit_length())]
    return sorted({size for power in powers for size in (power, power + power // 2) if size <= largest} | {largest})


@dataclass(frozen=True, slots=True)
class _Graph:
    replay: Callable[[], None]
    output: Any


class GraphedForward:
    """A forward that is recorded for items of one shape; others run as they did.

    Args:
        forward: of float32 [N, ...] on the device; it must give one row an item and never wait for the device.
        shape: of one item.
        largest: items in one batch; larger ones run as they did.
        device: of the input.
        record: makes a graph.

    Raises:
        ValueError: the model's output is not one row an item, or a graph answers otherwise than the forward does.
        RuntimeError: the model cannot be recorded.
    """

    def __init__(
        self,
        forward: Forward,
        shape: tuple[int, ...],
        largest: int,
        device: torch.device,
        record: Recorder | None = None,
    ) -> None:
        self._forward, self._shape = forward, shape
        # Zeros, for models that mind what the memory held; later, padding is what earlier batches left.
        self._input = torch.zeros((largest, *shape), device=device).contiguous(memory_format=memory_format_of(shape))
        record = record or functools.partial(record_cuda_graph, pool=torch.cuda.graph_pool_handle())
        # The largest first: the smaller ones then find room in the memory it needed.
        self._graphs = {size: self._recorded(size, record) for size in reversed(recorded_sizes(largest))}

    def __call__(self, batch: torch.Tensor) -> Any:
        """Run [N, ...] on the device; what comes back is the caller's own."""
        count = batch.shape[0]
        padding = self.padding(batch.shape)
        if padding is None:
            return self._forward(batch)
        self._input[:count].copy_(batch)
        graph = self._graphs[count + padding]
        graph.replay()
        return _map(lambda tensor: tensor[:count].clone(), graph.output)

    def padding(self, shape: tuple[int, ...]) -> int | None:
        """How many items are added to a batch of this shape; None where no graph runs it."""
        count, fits = shape[0], shape[1:] == self._shape and shape[0] <= len(self._input)
        return min(size for size in self._graphs if size >= count) - count if fits else None

    def _recorded(self, size: int, record: Recorder) -> _Graph:
        batch = self._input[:size]
        graph = _Graph(*record(self._forward, batch))

        for tensor in _tensors(graph.output):
            if tensor.dim() == 0 or tensor.shape[0] != size:
                raise ValueError(f"{_NEEDS}; {size} items gave an output of {list(tensor.shape)}")
        batch.copy_(torch.randn(batch.shape, generator=torch.Generator().manual_seed(size)))
        graph.replay()
        for actual, expected in zip(_tensors(graph.output), _tensors(self._forward(batch)), strict=True):
            bound = TOLERANCE * float(expected.float().nan_to_num(0, 0, 0).abs().max())
            if not torch.allclose(actual.float(), expected.float(), rtol=0, atol=bound, equal_nan=True):
                raise ValueError(f"compile: cuda_graphs: a graph of {size} items answers otherwise than the model")
        return graph


def record_cuda_graph(forward: Forward, batch: torch.Tensor, pool: Any) -> tuple[Callable[[], None], Any]:
    """Record `forward(batch)` on the batch's GPU; graphs of one pool share memory and must not run at once."""
    with torch.cuda.device(batch.device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(NUM_WARM_UPS):
                forward(batch)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Of this thread: what others do with the GPU meanwhile is nothing to the recording.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = forward(batch)
    return graph.replay, output


def _map(function: Callable[[torch.Tensor], Any], output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return function(output)
    if isinstance(output, Mapping):
        return {key: _map(function, value) for key, value in output.items()}
    if isinstance(output, tuple):
        return tuple(_map(function, value) for value in output)
    raise ValueError(f"{_NEEDS}; this one gives a {type(output).__name__}")


def _tensors(output: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _map(found.append, output)
    return found


COMPILER = Compiler(name="cuda_graphs", build=build, why_not=why_not)
