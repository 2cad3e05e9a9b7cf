"""How an expert's server is set up: engine, processes, threads and batch size, each chosen by measuring."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import requests
from smartbatch.errors import SmartBatchError
from smartbatch_worker.contract.machine import num_cores

from bench import backends, processes
from bench.cells import OBJECTIVE_MS, SMARTBATCH, Cell, in_precision
from bench.experts.export import EXPORTS, export
from bench.judge import Judge, WrongAnswer, check
from bench.load import LoadError, run_until_idle, run_until_steady
from bench.processes import PROJECT, ServerFailed, child_env
from bench.progress import say
from bench.servers.expert import ENVIRONMENT, Setup

AS_FAST = 0.97
"""Of the fastest engine's rate: the first in EXPORTS' order that has it is taken, for the later ones start slower."""
WARM_UP_S = 1.5
"""Of a setup that is tried, where no JVM has to compile first."""


class NoEngine(RuntimeError):
    """No library can run the model on this machine; the message has each one's reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One setup, and what it did."""

    setup: dict[str, Any]
    backend: str
    model: str
    """What it is called on its server, where that goes on running."""
    requests_per_s: float
    """With as many connections as all tables have."""
    p95_ms: float
    objective_connections: int
    """About as many as are in flight where p95 is at its objective."""
    objective_requests_per_s: float
    objective_p95_ms: float

    def told(self) -> dict[str, Any]:
        """As peers.json has it."""
        hidden = ("folder", "engine", "precision")
        told = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("backend", "model")}
        return told | {"setup": {key: value for key, value in self.setup.items() if key not in hidden}}


def fastest_engine(judge: Judge, precision: str) -> tuple[Setup, dict[str, Any]]:
    """The engine with the most images/s, and its best micro-batch, of a process with one thread on each core.

    Returns:
        A setup with both, and what was measured: rates by engine and micro-batch, or why there is none.

    Raises:
        NoEngine: none works.
    """
    quick = judge.args.quick
    sizes = (8, 32) if quick else (4, 8, 16, 32)
    rates: dict[str, Any] = {}
    bests: dict[str, tuple[int, float]] = {}
    for engine in EXPORTS:
        if engine == "inductor" and quick:
            continue  # it compiles for a minute
        if engine == "onnxruntime" and precision == "bf16":
            continue  # it has none on CPUs
        setup = Setup(
            engine=engine,
            precision=precision,
            folder=str(judge.work.expert_dir),
            processes=num_cores(),
            threads=1,
            decoders=0,
            batch_size=32,
            micro_batch=32,
        )
        try:
            export(engine, judge.work.weights, judge.work.expert_dir)
            rates[engine] = _time(setup, sizes, 0.7 if quick else 2.0)
        except Exception as error:  # whatever a library raises: the others are measured
            rates[engine] = f"{type(error).__name__}: {error}"[-300:]
        else:
            size = max(rates[engine], key=lambda size: float(rates[engine][size]))
            bests[engine] = int(size), rates[engine][size]
        say(f"  {engine} {precision}, images/s by micro-batch: {rates[engine]}")
    if not bests:
        raise NoEngine(f"no library runs the model: {rates}")
    most = max(rate for _, rate in bests.values())
    engine, (size, _) = next((name, best) for name, best in bests.items() if best[1] >= AS_FAST * most)
    return dataclasses.replace(setup, engine=engine, micro_batch=size), rates


def _time(setup: Setup, sizes: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Images/s by micro-batch, summed over a process a core that run at once."""
    env = child_env(
        {
            ENVIRONMENT: json.dumps(dataclasses.asdict(setup)),
            "BENCH_SECONDS": str(seconds),
            "OMP_NUM_THREADS": str(setup.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    )
    command = [sys.executable, "-m", "bench.servers.expert", *map(str, sizes)]
    children = [
        subprocess.Popen(command, env=env, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(setup.processes)
    ]
    answers = []
    for child in children:
        stdout, stderr = child.communicate()
        lines = [line for line in stdout.splitlines() if line.startswith("{")]
        if child.returncode or not lines:
            raise ServerFailed((stderr.strip().splitlines() or [f"exit {child.returncode}"])[-1])
        answers.append(json.loads(lines[-1]))
    return {str(size): round(sum(answer[str(size)] for answer in answers), 1) for size in sizes}


def candidates(peer: str, base: Setup, num: int, quick: bool) -> list[Setup]:
    """What is tried of one peer's server.

    Args:
        peer: of EXPERT_PEERS.
        base: engine and micro-batch.
        num: of cores.
        quick: only a process a core, and two batch sizes.
    """
    layouts = [(num, 1, 0)]
    if num > 1 and not quick:
        layouts.append((1, num, 0))
        if peer == "mosec":
            layouts.append((1, num, num))
    sizes = (8, 32) if quick else (8, 16, 32)
    return [
        dataclasses.replace(
            base,
            processes=processes,
            threads=threads,
            decoders=decoders,
            batch_size=size,
            micro_batch=min(size, base.micro_batch),
        )
        for processes, threads, decoders in layouts
        for size in sizes
    ]


def search(judge: Judge, peer: str, base: Setup) -> list[Trial]:
    """Try every candidate of a peer.

    Returns:
        Those that worked; TorchServe's are models that its server has.
    """
    trials: list[Trial] = []
    for number, setup in enumerate(candidates(peer, base, num_cores(), judge.args.quick)):
        name = f"try_{number}_{base.precision}"
        if peer == "TorchServe":
            archive = judge.work.expert_archive(name, setup)
            key = backends.TORCHSERVE_EXPERTS
            serve = _one_model(judge, key, name, archive, setup.processes, setup.batch_size)
        else:
            serve = _one_server(judge, f"{peer}/{name}", name, setup)
        trials += _try(judge, in_precision(peer, base.precision), dataclasses.asdict(setup), serve)
    return trials


def search_own(judge: Judge, precision: str) -> list[Trial]:
    """Try SmartBatch's batch sizes: all else it chooses by itself."""
    trials: list[Trial] = []
    key = "smartbatch" if precision == "fp32" else f"smartbatch_{precision}"
    for size in (8, 32) if judge.args.quick else (8, 16, 32):
        serve = _one_model(judge, key, f"batch_{size}", f"{key}.mar", 0, size)
        trials += _try(judge, in_precision(SMARTBATCH, precision), {"batch_size": size}, serve)
    return trials


Served = Iterator[tuple[str, backends.Backend, str]]
"""Key of a backend, the backend, and the model's name on it."""


@contextmanager
def _one_server(judge: Judge, key: str, name: str, setup: Setup) -> Served:
    """Goes on, paused, unless it does not work: who chooses ends those that nobody measures."""
    judge.work.setups[key] = setup
    backend = judge.running[key] = backends.start(key, judge.work)
    try:
        yield key, backend, name
    except BaseException:
        judge.end(key)
        raise
    processes.pause(backend.pid)


@contextmanager
def _one_model(judge: Judge, key: str, name: str, archive: str, workers: int, size: int) -> Served:
    """Of a TorchServe that goes on running; the model does too, unless it does not work."""
    if key not in judge.running:
        say(f"starting {key}")
        judge.running[key] = backends.start(key, judge.work)
    server = judge.running[key]
    assert isinstance(server, backends.TorchServe)
    with judge.turn(server):
        try:
            server.register(name, archive, workers, size)
            yield key, server, name
        except BaseException:
            with suppress(SmartBatchError):  # its workers would be started again and again
                server.unregister(name)
            raise


def _try(
    judge: Judge, title: str, setup: dict[str, Any], serve: AbstractContextManager[tuple[str, backends.Backend, str]]
) -> list[Trial]:
    """One setup: right answers, rate and p95 with many connections and with few; nothing where it does not work."""
    args = judge.args
    seconds = 2.0 if args.quick else 3.0
    try:
        with serve as (key, backend, model):
            cell = Cell(title, key, model, "jpeg375", "expert")
            check(cell, backend, judge.work)
            if isinstance(backend, backends.TorchServe):
                backend.settle(model)
            judge.warm_up(key, backend, cell, judge.longest_warm_up_s(cell), WARM_UP_S)
            url, body = backend.url(model), backend.body(judge.work.bodies[cell.workload])
            many = run_until_steady(url, body, args.connections, seconds, backend.pid)
            num = objective_connections(many.requests_per_s)
            few = run_until_idle(url, body, num, seconds, backend.pid)
            if many.num_failed or few.num_failed:
                raise LoadError(f"{many.num_failed + few.num_failed} requests failed")
    except (ServerFailed, LoadError, WrongAnswer, SmartBatchError, requests.RequestException) as error:
        say(f"  {title} {setup}: not measured: {str(error)[-300:]}")
        return []
    trial = Trial(
        setup=setup,
        backend=key,
        model=model,
        requests_per_s=round(many.requests_per_s, 2),
        p95_ms=many.p95_ms,
        objective_connections=num,
        objective_requests_per_s=round(few.requests_per_s, 2),
        objective_p95_ms=few.p95_ms,
    )
    say(f"  {title} {trial.told()}")
    return [trial]


def objective_connections(requests_per_s: float) -> int:
    """How many requests are in flight where p95 is at its objective: by Little's law, at six tenths of it."""
    return max(4, min(64, round(requests_per_s * 0.6 * OBJECTIVE_MS / 1000)))


def by_throughput(trials: list[Trial]) -> Trial:
    """The one with the most images/s."""
    return max(trials, key=lambda trial: trial.requests_per_s)


def by_objective(trials: list[Trial]) -> Trial:
    """The one with the most images/s of those that keep the objective with few connections; else the nearest to it."""
    keep = [trial for trial in trials if trial.objective_p95_ms <= OBJECTIVE_MS]
    if keep:
        return max(keep, key=lambda trial: trial.objective_requests_per_s)
    return min(trials, key=lambda trial: trial.objective_p95_ms)


CHOICES: dict[str, Callable[[list[Trial]], Trial]] = {"expert": by_throughput, "goodput": by_objective}
"""By the table that it is for."""
