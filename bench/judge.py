"""The servers that run, and what is measured of them: each checked first, warmed up, and paused in others' turns."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import requests
from smartbatch.errors import SmartBatchError
from smartbatch_worker.contract.machine import num_cores
from smartbatch_worker.forward.precision import is_emulated

from bench import backends, processes
from bench.bare import BareLoop
from bench.cells import Cell
from bench.load import JVM_WARM_UP_S, LoadError, LoadResult, run_until_idle, run_until_steady, warm_up_jvm
from bench.progress import say
from bench.work import Work, top_class

CELL_WARM_UP_S = 4.0
KEPT_BY_QUICK = ("smartbatch",)
"""What a quick run keeps from the first table to the last: a JVM takes half a minute to warm up."""


class WrongAnswer(RuntimeError):
    """A contestant answered other than eager PyTorch; its speed would mean nothing."""


def check(cell: Cell, backend: backends.Backend, work: Work) -> None:
    """Send every body once and compare the top classes.

    Raises:
        WrongAnswer: a status other than 200, or another class.
    """
    body = backend.body(work.bodies[cell.workload])
    for payload, expected in zip(body.payloads, work.expected[cell.workload], strict=True):
        reply = requests.post(
            backend.url(cell.model), data=payload, headers={"Content-Type": body.content_type}, timeout=300
        )
        if reply.status_code != 200:
            raise WrongAnswer(f"{cell.key} answered {reply.status_code}: {reply.text[:300]}")
        got = top_class(reply.content)
        if got != expected:
            raise WrongAnswer(f"{cell.key} answered class {got} where eager PyTorch says {expected}")


def measure(cell: Cell, backend: backends.Backend, work: Work, seconds: float, connections: int) -> LoadResult:
    """One run of wrk against one cell, the others paused; ends when the server has nothing left to do."""
    body = backend.body(work.bodies[cell.workload])
    return run_until_steady(backend.url(cell.model), body, connections, seconds, backend.pid)


class Judge:
    """The servers that run, and what was measured of them."""

    def __init__(self, args: argparse.Namespace, work: Work, after_round: Callable[[Judge], None]) -> None:
        self.args, self.work, self.after_round = args, work, after_round
        self.running: dict[str, backends.Backend] = {}
        self.skipped: dict[str, str] = {}
        self.samples: dict[str, list[LoadResult]] = {}
        self.bare_samples: list[dict[str, float]] = []
        self.memory_mb: dict[str, float] = {}
        self.bare: BareLoop | None = None
        self.bare_micro_batch: int | None = None
        self.forward: dict[str, str | int] | None = None
        """Compiler and micro-batch of the identical table."""
        self.setups: dict[str, Any] = {}
        """How the experts' servers are set up, and what else was tried."""
        self.goodput: dict[str, dict[str, Any]] = {}
        """By cell: the highest rate within the objective, and each rate that was tried."""
        self._warm: set[tuple[str, str]] = set()
        """Backends whose JVM has compiled what a kind of body needs."""
        self._kept: frozenset[str] = frozenset()
        """Backends of an earlier table that go on running, with the models that they had there."""

    def measurable(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that this processor can compute; the others are left out: in fp32 they would be other cells again."""
        self.leave_out(
            [cell for cell in cells if is_emulated(cell.precision)], "this processor has no bf16 instructions"
        )
        return [cell for cell in cells if not is_emulated(cell.precision)]

    def leave_out(self, cells: Sequence[Cell], why: str) -> None:
        """Not measured, and it is said why."""
        for cell in cells:
            self.skipped[cell.key] = why
            say(f"  {cell.key}: {why}")

    def measure_table(self, cells: Sequence[Cell]) -> None:
        """Start what `cells` need, and measure in rounds; what ran before ends, and with it the memory it had taken."""
        self.end_table()
        self.prepare(cells)
        is_identical = any(cell.table == "identical" for cell in cells)
        if is_identical and (not self.args.only or any("bare" in text for text in self.args.only)):
            say("starting the bare loop")
            self.bare = BareLoop(self.work.model_dir, num_cores())
            self.bare_micro_batch = self.bare.best_size
            say(f"  best micro-batch {self.bare_micro_batch}")
        self.measure_rounds(cells)

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Start what `cells` need and does not run yet; check, warm up and pause it."""
        is_identical = any(cell.table == "identical" for cell in cells)
        for key in dict.fromkeys(cell.backend for cell in cells):
            self._prepare(key, [cell for cell in cells if cell.backend == key])
            if is_identical and key in self.running:
                self._match_forward(self.running[key])

    def measure_rounds(self, cells: Sequence[Cell]) -> None:
        """Each cell once a round."""
        for round_index in range(self.args.rounds):
            # Another contestant begins each time, so that none always follows the same one.
            first = round_index * len(cells) // self.args.rounds
            self.measure_round([*cells[first:], *cells[:first]], f"round {round_index + 1}/{self.args.rounds}")

    def _match_forward(self, backend: backends.Backend) -> None:
        """The first TorchServe's forward is everybody's; one that chose another for itself is told of.

        Each contestant would else time the ways and sizes anew, and where two are alike, or a sample was disturbed,
        the "identical" forward would be two.
        """
        if not isinstance(backend, backends.TorchServe):
            return
        processes.resume(backend.pid)
        choices = backend.choices("smartbatch")
        processes.pause(backend.pid)
        if self.forward is None:
            say(f"  the identical forward: {choices}")
            self.forward = choices
            self.work.take_over(choices)
        elif choices != self.forward:
            say(f"  runs another forward: {choices}")

    def measure_round(self, cells: Sequence[Cell], head: str) -> None:
        """Every cell once, but those that failed before, and the bare loop."""
        for cell in cells:
            if cell.key in self.samples and cell.key not in self.skipped:
                say(f"{head} {cell.key}: {self._measure_cell(cell)}")
        if self.bare is not None:
            rate, cpu_ms = self.bare.run(self.bare.best_size, self.args.seconds)
            self.bare_samples.append({"requests_per_s": rate, "server_cpu_ms": cpu_ms})
            say(f"{head} bare loop: {rate:.1f}/s, CPU {cpu_ms:.1f} ms")
        self.after_round(self)

    @contextmanager
    def turn(self, backend: backends.Backend) -> Iterator[None]:
        """It runs for the length of the block, the others stand still."""
        processes.resume(backend.pid)
        time.sleep(0.3)
        try:
            yield
        finally:
            processes.pause(backend.pid)

    def warm_up(
        self, key: str, backend: backends.Backend, cell: Cell, longest_s: float, others_s: float = CELL_WARM_UP_S
    ) -> None:
        """Load until its JVM has compiled what this kind of body needs; `others_s` where it has, or there is none.

        Raises:
            LoadError: it died.
        """
        url, body = backend.url(cell.model), backend.body(self.work.bodies[cell.workload])
        if isinstance(backend, backends.TorchServe) and (key, cell.workload) not in self._warm:
            has_run = any(warm == key for warm, _ in self._warm)
            least_s = JVM_WARM_UP_S / 2 if has_run else JVM_WARM_UP_S
            say("  " + warm_up_jvm(url, body, self.args.connections, backend.pid, longest_s, least_s))
            self._warm.add((key, cell.workload))
        else:
            run_until_idle(url, body, self.args.connections, others_s, backend.pid)

    def end_table(self) -> None:
        """End what the tables that follow do not need; whole runs begin each anew, a quick one keeps what is warm."""
        kept = KEPT_BY_QUICK if self.args.quick else ()
        self._end_but(kept)
        self._kept = frozenset(self.running)

    def drop_models(self) -> None:
        """Of what was kept: it serves others from now on, and these would take memory and threads."""
        for key in self._kept:
            server = self.running[key]
            assert isinstance(server, backends.TorchServe)
            with self.turn(server), suppress(SmartBatchError):  # one that has died is told of where it is asked next
                server.unregister(key)  # each has one, of its own name
        self._kept = frozenset()

    def end(self, key: str) -> None:
        """End one server."""
        backend = self.running.pop(key)
        processes.resume(backend.pid)
        backend.stop()

    def end_all(self) -> None:
        """End the servers that run, and the bare loop."""
        self._end_but(())

    def _end_but(self, kept: Sequence[str]) -> None:
        if self.bare is not None:
            self.bare.stop()
            self.bare = None
        with ExitStack() as ending:  # all of them, though one's end should fail: the others would stay behind, paused
            for key in [key for key in self.running if key not in kept]:
                ending.callback(self.end, key)
        self._warm = {(key, workload) for key, workload in self._warm if key in self.running}

    def _prepare(self, key: str, cells: list[Cell]) -> None:
        """Start a backend unless it runs, check its answers, warm it up, pause it."""
        try:
            if key not in self.running:
                say(f"starting {key}")
                self.running[key] = backends.start(key, self.work)
        except Exception as error:
            self.skipped[key] = str(error)
            say(f"  skipped: {str(error)[-600:]}")
            return
        backend = self.running[key]
        processes.resume(backend.pid)
        for cell in cells:
            try:
                check(cell, backend, self.work)
            except WrongAnswer as error:
                self.skipped[cell.key] = str(error)
                say(f"  {error}")
                continue
            if isinstance(backend, backends.TorchServe):
                backend.settle(cell.model)
            try:
                # Each kind of body is new code to a JVM's compilers; a quick run does it once a table, and longer
                # where the forward is the same and a busy compiler is most of the difference.
                if self.args.quick and cell is not cells[0]:
                    self._warm.add((key, cell.workload))
                self.warm_up(key, backend, cell, self.longest_warm_up_s(cell))
            except LoadError as error:
                self.skipped[cell.key] = f"died while it was warmed up: {error}"
                say(f"  {self.skipped[cell.key]}")
                continue
            self.samples[cell.key] = []
        if key not in self._kept:  # which has another table's models as well
            self.memory_mb[f"{cells[0].table}:{key}"] = processes.memory_mb(backend.pid)
        processes.pause(backend.pid)

    def longest_warm_up_s(self, cell: Cell) -> float:
        """Of a JVM for this cell."""
        longest_s: float = self.args.longest_warm_up
        return longest_s * (2 if self.args.quick and cell.table == "identical" else 1)

    def _measure_cell(self, cell: Cell) -> str:
        backend = self.running[cell.backend]
        # As long as the last one had to be: a slow server's bursts are no closer together now.
        seconds = max([self.args.seconds, *(sample.seconds for sample in self.samples[cell.key])])
        try:
            with self.turn(backend):
                result = measure(cell, backend, self.work, seconds, self.args.connections)
        except LoadError as error:  # a peer that dies must not end the run of all
            self.skipped[cell.key] = f"not measured to the end: {error}"
            return self.skipped[cell.key]
        self.samples[cell.key].append(result)
        return (
            f"{result.requests_per_s:.1f}/s p95 {result.p95_ms:.0f} ms, CPU {result.server_cpu_ms or 0:.1f} ms, "
            f"wrk {result.generator_cpu_share:.1%}, failed {result.num_failed}"
        )
