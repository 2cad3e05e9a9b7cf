"""Several servers behind one address: a queueing simulator, held against three real ones, and what it says of more.

    python -m bench.scaling [--seconds 8] [--out bench/results] [--host-per-s 100]

Real: three servers of a model that sleeps (one of them three times as long), behind deploy/haproxy-servers.cfg, asked
at random moments at several rates. Simulated: the same, then a cell of many hosts at a share of what they can do.
Larger systems are cells beside each other, so hosts grow with the rate and latency does not.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import requests
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.server.ports import free_ports
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_load.load.answers import parse
from smartbatch_load.load.interrupt import Interrupt
from smartbatch_load.load.openloop import Load, arrivals, fire
from smartbatch_load.load.payloads import Payload

from bench.machine import describe
from bench.processes import PROJECT, Process

CONFIG = PROJECT / "deploy" / "haproxy-servers.cfg"
BATCH_SIZE, DELAY_MS, SLEEP_S = 8, 5, 0.040
SLOWNESS = (1.0, 1.0, 3.0)
"""Of each real server."""
UTILISATIONS = (0.3, 0.6, 0.85)
"""Of what the three can do together."""
MODEL = """
import os, time, torch

class Sleeps(torch.nn.Module):
    def forward(self, x):
        time.sleep(float(os.environ["SLEEP_S"]))
        return 2 * x + 1
"""
CELL_HOSTS = 50
STARTED = time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One server: what a batch of n takes, and how batches form."""

    fixed_s: float
    item_s: float
    batch_size: int
    delay_s: float
    workers: int = 1

    @property
    def per_s(self) -> float:
        """Requests a second in full batches."""
        return self.workers * self.batch_size / (self.fixed_s + self.item_s * self.batch_size)


@dataclass(slots=True)
class _Running:
    host: Host
    outstanding: int = 0
    idle: int = 0
    queue: deque[float] = field(default_factory=deque)
    gathered: list[float] = field(default_factory=list)
    gathering: int = 0
    """Which gathering the present one is; 0: nobody gathers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a load met."""

    p50_ms: float
    p95_ms: float
    avg_batch_size: float


def simulate(
    hosts: Sequence[Host], times: Sequence[float], maxconn: int, policy: str = "leastconn", seed: int = 0
) -> Outcome:
    """Serve arrivals by many hosts.

    Args:
        hosts: that share them.
        times: of the arrivals, ascending.
        maxconn: what a host has in its hands at most; the rest waits in the proxy.
        policy: leastconn: the host with the fewest; random2: the better of two at random.
        seed: of the latter.
    """
    running = [_Running(host, idle=host.workers) for host in hosts]
    draw = random.Random(seed)
    events: list[tuple[float, int, Callable[[float], None]]] = []
    counter, gatherings, turn = itertools.count(), itertools.count(1), itertools.count()
    waiting: deque[float] = deque()
    latencies: list[float] = []
    sizes: list[int] = []

    def at(moment: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (moment, next(counter), what))

    def choose() -> _Running | None:
        if policy == "random2":
            tried = [running[draw.randrange(len(running))] for _ in range(2)]
        else:
            first = next(turn) % len(running)
            tried = running[first:] + running[:first]
        free = [one for one in tried if one.outstanding < maxconn]
        return min(free, key=lambda one: one.outstanding) if free else None

    def arrive(now: float, sent: float) -> None:
        one = choose()
        if one is None:
            waiting.append(sent)
            return
        one.outstanding += 1
        one.queue.append(sent)
        progress(one, now)

    def progress(one: _Running, now: float) -> None:
        if not one.gathering:
            if not one.idle or not one.queue:
                return
            one.idle -= 1
            one.gathering = mine = next(gatherings)
            at(now + one.host.delay_s, lambda moment: close(one, mine, moment))
        while one.queue and len(one.gathered) < one.host.batch_size:
            one.gathered.append(one.queue.popleft())
        if len(one.gathered) == one.host.batch_size:
            close(one, one.gathering, now)

    def close(one: _Running, which: int, now: float) -> None:
        if one.gathering != which:
            return
        batch, one.gathered, one.gathering = one.gathered, [], 0
        took = one.host.fixed_s + one.host.item_s * len(batch)
        at(now + took, lambda moment: done(one, batch, moment))
        progress(one, now)

    def done(one: _Running, batch: list[float], now: float) -> None:
        latencies.extend(now - sent for sent in batch)
        sizes.append(len(batch))
        one.idle += 1
        one.outstanding -= len(batch)
        while waiting and choose() is not None:
            arrive(now, waiting.popleft())
        progress(one, now)

    for sent in times:
        at(sent, lambda moment, sent=sent: arrive(moment, sent))  # type: ignore[misc]
    while events:
        now, _, what = heapq.heappop(events)
        what(now)
    kept = sorted(latencies[len(latencies) // 10 :])
    return Outcome(
        p50_ms=1000 * kept[len(kept) // 2],
        p95_ms=1000 * kept[int(0.95 * len(kept))],
        avg_batch_size=sum(sizes) / len(sizes),
    )


@contextmanager
def real_servers(folder: Path) -> Iterator[tuple[str, list[RunningServer]]]:
    """The three, behind haproxy."""
    source = folder / "model.py"
    source.write_text(MODEL)
    os.environ["SLEEP_S"] = "0"  # for the archive's own check
    build_archive(ArchiveSettings(model_file=source, name="sleeps", input_shape="4", output=folder / "store"))
    servers: list[RunningServer] = []
    ports = free_ports(len(SLOWNESS))
    (port,) = free_ports(1)
    proxy: Process | None = None
    try:
        for number, (slowness, at_port) in enumerate(zip(SLOWNESS, ports, strict=True)):
            say(f"starting server {number + 1}")
            settings = ServerSettings(
                model_store=folder / "store",
                run_dir=folder / f"run{number}",
                inference_port=at_port,
                management_port=0,
                metrics_port=0,
                env={"SLEEP_S": str(slowness * SLEEP_S), "SMARTBATCH_MICRO_BATCH": str(BATCH_SIZE)},
            )
            servers.append(start_server(settings))
            with servers[-1].management() as client:
                client.register("sleeps.mar", batch_size=BATCH_SIZE, max_batch_delay_ms=DELAY_MS, workers=1)
                client.wait_ready("sleeps")
        env = {f"SERVER{n + 1}": f"127.0.0.1:{at_port}" for n, at_port in enumerate(ports)}
        env |= {"BIND": f"127.0.0.1:{port}", "MAXCONN": str(2 * BATCH_SIZE)}
        proxy = Process(["haproxy", "-db", "-f", str(CONFIG)], env, folder / "haproxy.log")
        for url in (*(server.inference_url for server in servers), f"http://127.0.0.1:{port}"):
            proxy.wait_until_answers(f"{url}/predictions/sleeps", b'{"data": [1, 2, 3, 4]}', "application/json")
        yield f"http://127.0.0.1:{port}/predictions/sleeps", servers
    finally:
        if proxy is not None:
            proxy.stop()
        for server in servers:
            server.stop(grace_s=0)


def overhead(server: RunningServer) -> float:
    """Seconds of a lone request beyond its sleep and the delay, at the median."""
    url = f"{server.inference_url}/predictions/sleeps"
    found = []
    with requests.Session() as session:
        for _ in range(60):
            started = time.perf_counter()
            session.post(url, json={"data": [1, 2, 3, 4]}, timeout=60).raise_for_status()
            found.append(time.perf_counter() - started)
    return max(0.0, statistics.median(found[10:]) - SLEEP_S - DELAY_MS / 1000)


def compare(seconds: float, folder: Path) -> dict[str, Any]:
    """Measured beside simulated, at each share of what the three can do."""
    payload = Payload(name="one", content_type="application/json", body=b'{"data": [1, 2, 3, 4]}')
    points = []
    with real_servers(folder) as (url, servers):
        beyond_s = overhead(servers[0])
        say(f"a lone request takes {1000 * beyond_s:.1f} ms beyond its delay and its forward")
        hosts = [
            Host(
                fixed_s=slowness * SLEEP_S + beyond_s,
                item_s=0.0,
                batch_size=BATCH_SIZE,
                delay_s=DELAY_MS / 1000,
            )
            for slowness in SLOWNESS
        ]
        able = sum(host.per_s for host in hosts)
        load = Load(
            url=url,
            payloads=[payload],
            expected={"one": parse(b'{"result": [3, 5, 7, 9]}')},
            headers={},
            timeout_s=60,
        )
        fire(load, list(arrivals(0.5 * able, 5.0, poisson=True, seed=9)), max_outstanding=10_000, interrupt=Interrupt())
        for share in UTILISATIONS:
            times = list(arrivals(share * able, seconds, poisson=True, seed=1))
            volley = fire(load, times, max_outstanding=10_000, interrupt=Interrupt())
            kept = sorted(shot.latency_s for shot in volley.shots if shot.ok)
            failed = len(volley.shots) - len(kept)
            simulated = simulate(hosts, times, 2 * BATCH_SIZE)
            sizes = [1 / shot.batch_size for shot in volley.shots if shot.batch_size]
            measured = Outcome(
                p50_ms=1000 * kept[len(kept) // 2],
                p95_ms=1000 * kept[int(0.95 * len(kept))],
                avg_batch_size=len(sizes) / sum(sizes),
            )
            points.append(
                {
                    "share": share,
                    "per_s": share * able,
                    "failed": failed,
                    "measured": asdict(measured),
                    "simulated": asdict(simulated),
                }
            )
            say(f"{share:.0%} of {able:.0f}/s: measured {measured}, simulated {simulated}, failed {failed}")
    return {"beyond_ms": 1000 * beyond_s, "able_per_s": able, "points": points}


def cells(host_per_s: float) -> list[dict[str, Any]]:
    """A cell of many hosts of that rate each, by how much of it is asked and how the proxy chooses."""
    item_s = 1 / host_per_s
    host = Host(fixed_s=4 * item_s, item_s=item_s * (1 - 4 / 32), batch_size=32, delay_s=0.010)
    found = []
    for policy in ("leastconn", "random2"):
        for share in (0.5, 0.7, 0.85, 0.95):
            rate = share * host.per_s * CELL_HOSTS
            times = list(arrivals(rate, 12_000 / rate + 8 * 32 * item_s, poisson=True, seed=2))
            outcome = simulate([host] * CELL_HOSTS, times, 64, policy)
            found.append({"policy": policy, "share": share, "per_s": rate, **asdict(outcome)})
    return found


def say(line: str) -> None:
    """Progress."""
    print(f"[scaling {time.monotonic() - STARTED:5.0f} s] {line}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Measure, simulate, write scaling.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="at each rate")
    parser.add_argument("--host-per-s", type=float, default=100.0, help="what a host of the cell answers a second")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        compared = compare(args.seconds, Path(scratch))
    results = {"machine": describe(), **compared, "host_per_s": args.host_per_s, "cells": cells(args.host_per_s)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scaling.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for cell in results["cells"]:
        says = f"p95 {cell['p95_ms']:.0f} ms, {cell['avg_batch_size']:.1f} a batch"
        say(f"{CELL_HOSTS} hosts, {cell['policy']}, {cell['share']:.0%}: {says}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
