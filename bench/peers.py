"""SmartBatch beside its peers: one run, one machine, one load generator, interleaved rounds, medians.

    python -m bench.peers [--quick] [--out bench/results] [--only TEXT ...] [--set KEY=VALUE ...]

Every contestant serves the same weights and is asked for the same images; each must give eager PyTorch's top class
for all of them before it is measured. Servers that are not being measured are paused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests
from smartbatch_worker.contract.machine import num_cores

from bench import backends, processes, report
from bench.bare import BareLoop
from bench.cells import BARE, CELLS, QUICK, Cell, ratios
from bench.load import JVM_WARM_UP_S, LoadError, LoadResult, run_until_idle, run_until_steady, warm_up_jvm
from bench.machine import describe
from bench.report import TITLES
from bench.work import Work, top_class

CONNECTIONS = 64
CELL_WARM_UP_S = 4.0
STARTED = time.monotonic()


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
        self.forward: dict[str, str | int] | None = None
        """Compiler and micro-batch of the identical table."""

    def measure_table(self, cells: Sequence[Cell]) -> None:
        """Start what `cells` need, and measure in rounds; what ran before ends, and with it the memory it had taken."""
        for key in list(self.running):
            self._end(self.running.pop(key))
        is_identical = any(cell.table == "identical" for cell in cells)
        for key in dict.fromkeys(cell.backend for cell in cells):
            self._prepare(key, [cell for cell in cells if cell.backend == key])
            if is_identical and key in self.running:
                self._match_forward(self.running[key])
        if is_identical and (not self.args.only or any("bare" in text for text in self.args.only)):
            say("starting the bare loop")
            self.bare = BareLoop(self.work.model_dir, num_cores())
            say(f"  best micro-batch {self.bare.best_size}")
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

    def stop(self) -> None:
        """End everything."""
        if self.bare is not None:
            self.bare.stop()
        for backend in self.running.values():
            self._end(backend)

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
        is_jvm = isinstance(backend, backends.TorchServe)
        for cell in cells:
            try:
                check(cell, backend, self.work)
            except WrongAnswer as error:
                self.skipped[cell.key] = str(error)
                say(f"  {error}")
                continue
            if isinstance(backend, backends.TorchServe):
                backend.settle(cell.model)
            url, body = backend.url(cell.model), backend.body(self.work.bodies[cell.workload])
            try:
                # Each kind of body is new code to a JVM's compilers; a quick run does it once a table, and longer
                # where the forward is the same and a busy compiler is most of the difference.
                if is_jvm and (cell is cells[0] or not self.args.quick):
                    longest = self.args.longest_warm_up * (3 if self.args.quick and cell.table == "identical" else 1)
                    say("  " + warm_up_jvm(url, body, self.args.connections, backend.pid, longest))
                else:
                    run_until_idle(url, body, self.args.connections, CELL_WARM_UP_S, backend.pid)
            except LoadError as error:
                self.skipped[cell.key] = f"died while it was warmed up: {error}"
                say(f"  {self.skipped[cell.key]}")
                continue
            self.samples[cell.key] = []
        self.memory_mb[f"{cells[0].table}:{key}"] = processes.memory_mb(backend.pid)
        processes.pause(backend.pid)

    def _measure_cell(self, cell: Cell) -> str:
        backend = self.running[cell.backend]
        try:
            processes.resume(backend.pid)
            time.sleep(0.3)
            result = measure(cell, backend, self.work, self.args.seconds, self.args.connections)
            processes.pause(backend.pid)
        except LoadError as error:  # a peer that dies must not end the run of all
            self.skipped[cell.key] = f"not measured to the end: {error}"
            return self.skipped[cell.key]
        self.samples[cell.key].append(result)
        return (
            f"{result.requests_per_s:.1f}/s p95 {result.p95_ms:.0f} ms, CPU {result.server_cpu_ms or 0:.1f} ms, "
            f"wrk {result.generator_cpu_share:.1%}, failed {result.num_failed}"
        )

    @staticmethod
    def _end(backend: backends.Backend) -> None:
        processes.resume(backend.pid)
        backend.stop()


def run(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Start all, check all, warm all, measure in rounds, stop all; what is known is written after each round."""
    offered = QUICK if args.quick and not args.only else CELLS
    cells = [cell for cell in offered if not args.only or any(text.lower() in cell.key.lower() for text in args.only)]
    if not cells:
        raise SystemExit(f"--only {' '.join(args.only)} matches nothing; there are: {', '.join(c.key for c in CELLS)}")
    machine = describe()
    work = Work(folder, tuple((key, value) for key, _, value in (pair.partition("=") for pair in args.set)))
    say("building weights and archives")
    work.build()
    say(f"reference answers: {work.expected['jpeg375']} {work.expected['json']}")
    judge = Judge(args, work, lambda judge: write(summarise(judge, machine), args.out))
    try:
        for table in TITLES:
            # One table after the other: all servers at once would not fit into memory.
            judge.measure_table([cell for cell in cells if cell.table == table])
    finally:
        judge.stop()
    return summarise(judge, machine)


def summarise(judge: Judge, machine: dict[str, Any]) -> dict[str, Any]:
    """What has been measured so far, as peers.json holds it."""
    runs: dict[str, list[dict[str, Any]]] = {
        key: [dataclasses.asdict(sample) for sample in taken] for key, taken in judge.samples.items() if taken
    }
    if judge.bare_samples:
        runs[BARE] = list(judge.bare_samples)
    rates = {key: statistics.median(run["requests_per_s"] for run in taken) for key, taken in runs.items()}
    costs = {key: [run["server_cpu_ms"] for run in taken if run["server_cpu_ms"]] for key, taken in runs.items()}
    per_cpu_s = {key: 1000 / statistics.median(values) for key, values in costs.items() if values}
    args = judge.args
    return {
        "machine": machine,
        "settings": {
            "rounds": args.rounds,
            "seconds": args.seconds,
            "connections": args.connections,
            "longest_warm_up": args.longest_warm_up,
            "overrides": args.set,
            "identical_forward": judge.forward,
            "bare_micro_batch": judge.bare.best_size if judge.bare else None,
        },
        "ratios": ratios(rates),
        "ratios_of_cpu_time": ratios(per_cpu_s),
        "images_per_s": {key: round(rate, 2) for key, rate in rates.items()},
        "images_per_cpu_s": {key: round(rate, 2) for key, rate in per_cpu_s.items()},
        "samples": runs,
        "memory_mb": {key: round(value) for key, value in judge.memory_mb.items()},
        "skipped": judge.skipped,
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """peers.json, peers.md and peers.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "peers.md").write_text(report.markdown(results))
    report.plot(results, folder / "peers.png")


def say(text: str) -> None:
    """Progress, on stderr, with the time since the start."""
    print(f"[bench {time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run and write peers.json, peers.md and peers.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="ten minutes: 2 rounds of 4 s, without Ray Serve, and around the identical forward mosec alone",
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="cells whose key contains one of these")
    parser.add_argument("--rounds", type=int, help="default 5, quick 2")
    parser.add_argument("--seconds", type=float, help="per cell and round; default 15, quick 4")
    parser.add_argument(
        "--longest-warm-up",
        type=float,
        metavar="SECONDS",
        help=f"of a JVM whose compilers are still busy after {JVM_WARM_UP_S:.0f}; default 180, quick 25, identical 75",
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="handler keys of SmartBatch's archive"
    )
    parser.add_argument("--work", type=Path, help="keep servers' logs and archives here")
    args = parser.parse_args(argv)
    # A bench that is told to stop still ends its servers: SIGTERM unwinds as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.longest_warm_up = args.longest_warm_up or (JVM_WARM_UP_S if args.quick else 180.0)
    args.seconds = args.seconds or (4.0 if args.quick else 15.0)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        folder = args.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = run(args, folder.absolute())
    write(results, args.out)
    print(report.markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
