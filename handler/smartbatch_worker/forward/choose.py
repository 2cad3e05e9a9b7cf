"""From a module to the function that runs one batch: by the configured compiler, or by the fastest that is right."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import Samples
from smartbatch_worker.forward import alike, calibrate, measure
from smartbatch_worker.forward.batches import each, num_items
from smartbatch_worker.forward.compilers import COMPILERS
from smartbatch_worker.forward.compilers.compiler import (
    Built,
    CompilerUnavailableError,
    Examples,
    Padding,
    Task,
    no_padding,
)
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.forward.precision import Forward, is_emulated, warn_if_emulated
from smartbatch_worker.models import kind_of

logger = logging.getLogger(__name__)

PLAIN, GRAPHS = "off", "cuda_graphs"
"""The compiler that the others are compared with: PyTorch itself."""

FP32_TOLERANCE = 1e-4
"""Of the largest answer: how far one way of computing in fp32 may be from another."""
BF16_TOLERANCE = 2.0
"""Times the error of the model converted to bf16, root mean square: what another way of computing in bf16 may have."""

NUM_TIMED, NUM_CHECKED = 4, 2
"""Items of a forward that is timed; and those that a way has to answer as PyTorch does, each time that it is built: and
one alone, since what reads a module may take the number for a constant."""
NUM_ROUNDS = 3
HOPELESS = 4.0
"""Times the fastest: a way that takes longer is not timed again. Less may be a worker that was loading meanwhile."""
DECIDED = 0.5
"""Of PyTorch's time: where a way of our own takes no more, no library's is made that takes long to make. They compute
convolutions directly, as PyTorch does: ResNets took them 0.8 of its time, and Winograd 0.4."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model's forward, and how it came to be."""

    forward: Forward
    name: str
    """What made it: a name of `COMPILERS`; never auto."""
    precision: str
    """What it computes in: the configured precision, or fp32 where that is faster on this CPU."""
    padding: Padding = no_padding
    modules: tuple[torch.nn.Module, ...] = field(default=(), compare=False)
    """Whose weights it reads each time that it runs."""
    choice: Choice | None = field(default=None, compare=False)
    """What is left to be chosen: this is what answers meanwhile. None: nothing."""

    @property
    def way(self) -> str:
        """Compiler and precision: "winograd fp32"."""
        return f"{self.name} {self.precision}"


def compile_forward(
    module: torch.nn.Module,
    config: WorkerConfig,
    device: torch.device,
    shape: tuple[int, ...] | None,
    measurements: Measurements,
    largest: int = calibrate.MAX_LARGEST,
    samples: Samples | None = None,
    *,
    at_once: bool = False,
) -> Compiled:
    """Make a module a function of one batch.

    Args:
        module: in eval mode, in float32 and on its device; it may be converted in place.
        config: `compile` and `precision` decide; torchvision's own architectures are folded in any case.
        device: where it runs.
        shape: of one item, where known: compilation then happens here and not at the first request.
        measurements: of this model; what is built is kept beside them.
        largest: most items in one batch; CUDA graphs are recorded up to it.
        samples: of a module with named inputs, where there are any.
        at_once: where the fastest way is to be taken, PyTorch's is, and the answer says that the choice is left.

    Raises:
        ValueError: the compiler is not installed or does not take this kind of model.
        RuntimeError: it took the model and failed.
    """
    kind, precision = kind_of(config.model), _computed_in(config, device)
    is_compared = device.type == "cpu" and (config.compile == "auto" or COMPILERS[config.compile].reads_once)
    task = Task(
        module,
        precision,
        is_ours=kind.is_ours,
        shape=shape,
        device=device,
        cache_dir=measurements.folder,
        name_of=measurements.name_of,
        largest=largest,
        inputs=config.inputs,
        examples=_examples(shape, samples) if is_compared else None,
    )
    can_choose = device.type == "cpu" and (kind.is_ours or kind.may_be_read(config)) and precision != "fp16"
    if config.compile == "auto" and can_choose and task.examples is not None:
        choice = Choice(task, measurements)
        if kind.is_ours or choice.is_open:
            return choice.plain() if at_once else choice.measured()
    warn_if_emulated(precision, device)
    if config.compile == "auto" and device.type == "cuda" and task.is_ours and shape is not None:
        return _recorded_or_plain(task)
    compiler = COMPILERS[PLAIN if config.compile == "auto" else config.compile]
    built = compiler.take(task)
    if compiler.reads_once:
        alike.check_alike(built.forward, task)
    return Compiled(built.forward, compiler.name, precision, built.padding, built.modules)


def _computed_in(config: WorkerConfig, device: torch.device) -> str:
    """The configured precision, the coarsest to compute in; where the choice is ours and the CPU has it not, fp32."""
    if config.compile != "auto" or device.type != "cpu" or not is_emulated(config.precision):
        return config.precision
    told = "this CPU has no %s instructions: computing in fp32, which is faster here and more precise"
    logger.info(told, config.precision)
    return "fp32"


def _recorded_or_plain(task: Task) -> Compiled:
    """CUDA graphs, of a model whose source is known: no slower, and several times as fast for a few items."""
    name = GRAPHS
    try:
        built = COMPILERS[GRAPHS].take(task)
    except (RuntimeError, ValueError) as error:
        logger.warning("%s is not used: %s", GRAPHS, (str(error).splitlines() or [""])[0])
        torch.cuda.empty_cache()  # of what was recorded until then
        name, built = PLAIN, COMPILERS[PLAIN].take(task)
    return Compiled(built.forward, name, task.precision, built.padding, built.modules)


def _examples(shape: tuple[int, ...] | None, samples: Samples | None) -> Examples | None:
    """What to time and to compare a model with; None where nobody knows what it takes."""
    if shape is not None:
        batch = torch.randn((NUM_TIMED, *shape), generator=torch.Generator().manual_seed(0))
        return Examples(f"shape={shape}", [batch], [batch[:NUM_CHECKED], batch[NUM_CHECKED : NUM_CHECKED + 1]])
    if samples is None or not samples.measured:
        return None
    # A sample's batch is valid until the next one's.
    timed = [each(torch.clone, sample.batch(NUM_TIMED)) for sample in samples.measured]
    return Examples(f"shape={[sample.shape for sample in samples.measured]}", timed, [*timed, *samples.compared])


class Choice:
    """Which way of computing in the configured precision or better is the fastest on this CPU: measured once.

    bf16 is computed in fp32 where the CPU has no bf16 instructions, or where fp32 is faster.
    """

    def __init__(self, task: Task, measurements: Measurements) -> None:
        self._ways, self._measurements = _Ways(task), measurements
        self.key = f"compile {' or '.join(self._ways.names)} {self._ways.examples.told}"
        """Of `Measurements`."""

    @property
    def is_open(self) -> bool:
        """Whether there is more than one way."""
        return len(self._ways.names) > 1

    def plain(self) -> Compiled:
        """PyTorch: it is there at once, and leaves this choice to be made."""
        way = self._ways.plain
        return self._compiled(way, self._ways.build(way), self)

    def measured(self) -> Compiled:
        """The fastest; where it is not known, all are built and timed now."""
        built: dict[str, Built] = {}
        times = self._measurements.remember(
            self.key, lambda: self._time_all(built), self._is_way, lambda: not self._ways.has_failed
        )
        return self._best(times, built)

    def name(self) -> str | None:
        """Of the fastest, compiler and precision, as `known` would build it; None where it is not known."""
        times = self._measurements.kept(self.key, self._is_way)
        fastest = None if times is None else min(times, key=times.__getitem__)
        return fastest if fastest is not None and self._ways.is_kept(fastest) else None

    def known(
        self, undisturbed: Callable[[], AbstractContextManager[None]], *, even_old: bool = False
    ) -> Compiled | None:
        """The fastest, built now, for a model that answers meanwhile; None where it is not known.

        Args:
            undisturbed: entered while the model is read: nobody else runs it then.
            even_old: what was the fastest when it was measured last is good enough.
        """
        look = self._measurements.last_known if even_old else self._measurements.kept
        times = look(self.key, self._is_way)
        self._ways.read_within(undisturbed)
        return None if times is None else self._best(times, {})

    def _best(self, times: Mapping[str, float], built: Mapping[str, Built]) -> Compiled:
        for way in sorted(times, key=times.__getitem__):
            made = built.get(way) or self._ways.build(way)  # what was the fastest once may fail today
            if made is not None:
                return self._compiled(way, made)
        raise RuntimeError("plain PyTorch is among the ways, and always there")

    def _compiled(self, way: str, made: Built | None, choice: Choice | None = None) -> Compiled:
        assert made is not None, "plain PyTorch is always there"
        compiler, precision = way.split()
        return Compiled(made.forward, compiler, precision, made.padding, made.modules, choice)

    def _time_all(self, built: dict[str, Built]) -> dict[str, float]:
        ways = self._ways
        tried = ways.comparable()
        kept = [way for way in tried if ways.is_kept(way)]
        built.update(ways.build_all(kept))
        if not built:
            return {ways.plain: 0.0}
        times = self._timed(built)
        late = [] if self._is_decided(times) else [way for way in tried if way not in kept]
        if more := ways.build_all(late):
            built.update(more)
            times = self._timed(built)
        told = ", ".join(f"{way} {1000 * seconds:.1f} ms" for way, seconds in times.items())
        logger.info("forward of %d items: %s", sum(map(num_items, ways.examples.timed)), told)
        return times

    def _is_decided(self, times: Mapping[str, float]) -> bool:
        """Whether no library that reads a module can be faster than what is known already."""
        fastest = min(times, key=times.__getitem__)
        plain = min((seconds for way, seconds in times.items() if way.split()[0] == PLAIN), default=math.inf)
        return not COMPILERS[fastest.split()[0]].reads_once and times[fastest] <= DECIDED * plain

    def _timed(self, built: Mapping[str, Built]) -> dict[str, float]:
        """Seconds of each, the least of the rounds, in which they take turns."""
        times = dict.fromkeys(built, math.inf)
        for _ in range(NUM_ROUNDS):
            limit = HOPELESS * min(times.values())
            for way in [way for way in built if times[way] <= limit]:
                seconds = [
                    measure.time_forward(built[way].forward, batch, self._ways.device)
                    for batch in self._ways.examples.timed
                ]
                times[way] = min(times[way], sum(seconds))
        return times

    def _is_way(self, name: str) -> bool:
        return name in self._ways.names


class _Ways:
    """The ways of computing a model on this CPU, each built when it is asked for, and checked against plain PyTorch.

    A way's name is its compiler and its precision: "winograd fp32".
    """

    def __init__(self, task: Task) -> None:
        assert task.examples is not None
        self.device, self.examples = task.device, task.examples
        self.has_failed = False  # what is not installed has not failed; it is told apart in the measurements' key
        has_bf16 = task.precision == "bf16"
        self._tasks = {precision: task.in_another(precision) for precision in ("fp32", "bf16")}
        self.plain = f"{PLAIN} {'bf16' if has_bf16 else 'fp32'}"
        """PyTorch's, in the configured precision where the CPU has it."""
        self.names = [f"{row.name} {precision}" for row in COMPILERS.values() for precision in row.ways(task, has_bf16)]

    def read_within(self, undisturbed: Callable[[], AbstractContextManager[None]]) -> None:
        """What is built from now on runs the module, to read it, only within such blocks."""
        for task in self._tasks.values():
            task.undisturbed, task.answers_meanwhile = undisturbed, True

    def is_kept(self, way: str) -> bool:
        """Whether what takes long to make of it need not be made."""
        compiler, precision = way.split()
        return COMPILERS[compiler].is_kept(self._tasks[precision])

    def comparable(self) -> list[str]:
        """Those to try: what gives anything but a tensor cannot be compared, and stays PyTorch's.

        None where PyTorch itself fails with the examples.
        """
        try:
            is_tensor = all(isinstance(answer, torch.Tensor) for answer in self._expected)
        except Exception as error:  # whatever a model raises that does not take made-up numbers
            logger.warning("ways of computing are not compared: PyTorch fails (%s: %s)", type(error).__name__, error)
            self.has_failed = True
            return []
        return [way for way in self.names if is_tensor or way.split()[0] == PLAIN]

    def build_all(self, ways: Iterable[str]) -> dict[str, Built]:
        """Those of them that can be built, and are right."""
        return {way: made for way in ways if (made := self.build(way)) is not None}

    def build(self, way: str) -> Built | None:
        """The forward, or None if it cannot be built here, fails, or answers other than plain PyTorch does."""
        compiler, precision = way.split()
        task = self._tasks[precision]
        if compiler == PLAIN:
            # A copy where it is converted: the others need the module, too.
            return Built(task.plain, modules=(task.plain_module,))
        try:
            built = COMPILERS[compiler].take(task)
            difference = alike.difference(self._answers(built.forward), self._expected)
        except CompilerUnavailableError as error:
            logger.info("%s: %s", error.instead, error)
            return None
        except Exception as error:  # of a library that reads another's model
            self.has_failed = True
            logger.warning("%s in %s fails: not used (%s: %s)", compiler, precision, type(error).__name__, error)
            return None
        if not self._is_right(difference, precision):
            self.has_failed = True
            logger.warning("%s in %s differs by %g: not used", compiler, precision, float(difference.abs().max()))
            return None
        return built

    def _is_right(self, difference: torch.Tensor, precision: str) -> bool:
        if precision == "bf16":
            return alike.rms(difference) <= BF16_TOLERANCE * self._error_of_plain_bf16
        largest = max(float(answer.abs().max()) for answer in self._expected)
        return float(difference.abs().max()) <= FP32_TOLERANCE * largest

    @cached_property
    def _error_of_plain_bf16(self) -> float:
        return alike.rms(alike.difference(self._answers(self._tasks["bf16"].plain), self._expected))

    @cached_property
    def _expected(self) -> list[Any]:
        return self._answers(self._tasks["fp32"].plain)

    def _answers(self, forward: Forward) -> list[Any]:
        return [forward(batch) for batch in self.examples.compared]
