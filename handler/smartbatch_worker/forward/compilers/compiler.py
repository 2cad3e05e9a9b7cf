"""What a compiler is: one row of `COMPILERS`, what it is given, and what it gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch

from smartbatch_worker.contract.inputs import Inputs
from smartbatch_worker.forward.batches import Batch
from smartbatch_worker.forward.fold import fold_batch_norms
from smartbatch_worker.forward.precision import Forward, in_precision

Padding: TypeAlias = Callable[[tuple[int, ...]], int | None]
"""From a batch's shape to how many items are added to it; None where it runs as it is."""


def no_padding(shape: tuple[int, ...]) -> int | None:
    """Of a forward that runs any number of items."""
    return None


class CompilerUnavailableError(RuntimeError):
    """What a compiler needs is not here, which is no fault: PyTorch takes its place.

    Args:
        reason: what is not here.
        instead: what that leaves to PyTorch, for the log.
    """

    def __init__(self, reason: str, instead: str) -> None:
        super().__init__(reason)
        self.instead = instead


@dataclass(frozen=True, slots=True)
class Examples:
    """Batches of a few items, on the host."""

    told: str
    """Their shapes, for a key."""
    timed: Sequence[Batch]
    compared: Sequence[Batch]
    """On which whatever was made of a module has to answer as the module does."""


class Task:
    """A module to be made a function of one batch.

    Args:
        module: in eval mode, in float32 and on its device.
        precision: to compute in.
        is_ours: its source is known, so that it may be traced.
        shape: of one item of a single tensor, where known.
        device: where it runs.
        cache_dir: where what is built is kept for later workers.
        name_of: from what is built of this module to a name for its file, which tells it from all others'.
        largest: most items in one batch.
        inputs: of a module that takes them by name.
        examples: of what it takes; none where nobody knows.
    """

    num_threads: int
    """What it is to be computed with."""

    def __init__(
        self,
        module: torch.nn.Module,
        precision: str,
        *,
        is_ours: bool,
        shape: tuple[int, ...] | None,
        device: torch.device,
        cache_dir: Path,
        name_of: Callable[[str], str],
        largest: int,
        inputs: Inputs | None = None,
        examples: Examples | None = None,
    ) -> None:
        self.module, self.precision, self.is_ours = module, precision, is_ours
        self.shape, self.device, self.cache_dir, self.largest = shape, device, cache_dir, largest
        self.name_of, self.inputs, self.examples = name_of, inputs, examples
        self.answers_meanwhile = False
        """Whether others run the module while it is compiled: what would keep it from them for long is not begun."""
        self.undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered while the module is read by running it: nobody else runs it then."""
        self.num_threads = torch.get_num_threads()

    @cached_property
    def folded(self) -> torch.nn.Module:
        """The module in float32, batch norms folded into convolutions where its source is known.

        Not on a GPU: cuDNN adds a convolution's bias in a pass of its own, which takes longer than the norm does
        (ResNet-50 in bf16, 256 images on an H200: 19.4 ms folded, 16.7 as it is).
        """
        if self.is_ours and self.device.type == "cpu":
            self.module = fold_batch_norms(self.module)  # what it was before is freed
        return self.module

    @cached_property
    def plain_module(self) -> torch.nn.Module:
        """The folded module, a copy where `plain` converts it."""
        return self.folded if self.precision == "fp32" else copy.deepcopy(self.folded)

    @cached_property
    def plain(self) -> Forward:
        """The folded module as PyTorch runs it in the precision."""
        return in_precision(self.plain_module, self.precision)

    def in_another(self, precision: str) -> Task:
        """The same in another precision; both share what is folded."""
        other = Task(
            self.folded,
            precision,
            is_ours=self.is_ours,
            shape=self.shape,
            device=self.device,
            cache_dir=self.cache_dir,
            name_of=self.name_of,
            largest=self.largest,
            inputs=self.inputs,
            examples=self.examples,
        )
        other.__dict__["folded"] = self.folded
        return other


@dataclass(frozen=True, slots=True)
class Built:
    """What a compiler gives."""

    forward: Forward
    """It must run sizes and shapes it was not built for, or hand them to PyTorch."""
    padding: Padding = no_padding
    modules: tuple[torch.nn.Module, ...] = ()
    """Whose weights it reads each time that it runs; none where the compiler keeps them."""


def always(task: Task) -> str | None:
    """Of a compiler that takes everything."""
    return None


def at_once(task: Task) -> bool:
    """Of a compiler that keeps nothing which takes it long to make."""
    return True


def never(task: Task, has_bf16: bool) -> tuple[str, ...]:
    """Of a compiler that `compile: auto` does not try."""
    return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """How one compiler is called."""

    name: str
    build: Callable[[Task], Built]
    """Raises `RuntimeError` or `ValueError` where it fails, `CompilerUnavailableError` where it cannot be here."""
    why_not: Callable[[Task], str | None] = always
    """Why it does not take a task, in a sentence that names the setting; None where it does."""
    ways: Callable[[Task, bool], tuple[str, ...]] = never
    """The precisions in which `compile: auto` tries it on this CPU, told whether bf16 is wanted and there."""
    is_kept: Callable[[Task], bool] = at_once
    """Whether what takes it long to make of a task is in the cache."""
    reads_once: bool = False
    """It reads a module by running it once, so that what it made has to be compared for other numbers of items."""

    def take(self, task: Task) -> Built:
        """Build.

        Raises:
            ValueError: it does not take this task, or failed.
            RuntimeError: it failed.
        """
        if (reason := self.why_not(task)) is not None:
            raise ValueError(reason)
        return self.build(task)
