"""Closed-loop load from wrk, and the rate at which whole batches were answered."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from smartbatch_worker.contract.machine import num_cores

from bench.processes import CpuWatch, compiler_cpu_s, wait_idle

LUA = Path(__file__).with_name("wrk.lua")
CONNECTIONS = 64
RAMP_UP_SHARE = 0.2
"""Of the time under load: answers before it do not count (the first batches are small, or late)."""

JVM_WARM_UP_S = 25.0
QUIET_SHARE = 0.02
"""Of a core: compilers that take less have little left to do."""

MIN_SPAN_SHARE = 0.3
MANY_BURSTS = 4
LONGEST_S = 64.0
"""Of one measurement that is prolonged until its rate is steady."""


class LoadError(RuntimeError):
    """The load generator is missing or failed."""


@dataclass(frozen=True, slots=True)
class Body:
    """Request bodies that a contestant accepts, of one kind."""

    content_type: str
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one run of wrk saw."""

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    num_ok: int
    num_failed: int
    """Answers other than 200, timeouts, broken connections."""
    generator_cpu_share: float
    """Of all cores, used by wrk itself."""
    is_steady: bool
    """Whether the rate was taken between the ends of two bursts; if not, it says little of a slow server."""
    server_cpu_ms: float | None
    """The server's CPU time per answer: hardly touched by other programs on the machine, as the rate is."""
    seconds: float
    """How long it lasted."""


def run_wrk(url: str, body: Body, connections: int, seconds: float, server_pid: int | None = None) -> LoadResult:
    """Keep `connections` requests in flight for `seconds`; with `server_pid`, also count that tree's CPU time.

    Raises:
        LoadError: wrk is not installed, or gave no result.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LoadError("wrk is not installed: apt-get install wrk (or run bench/setup.sh)")
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch)
        answers, job = folder / "answers", folder / "job"
        paths = []
        for index, payload in enumerate(body.payloads):
            path = folder / f"body{index}"
            path.write_bytes(payload)
            paths.append(str(path))
        job.write_text("\n".join([str(answers), body.content_type, *paths]) + "\n")
        command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "600s"]
        command += ["-s", str(LUA), url, "--", str(job)]
        before, started = os.times(), time.monotonic()
        with CpuWatch(server_pid) as watch:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        after, wall_s = os.times(), time.monotonic() - started
        if done.returncode:
            raise LoadError(f"wrk failed on {url}: {(done.stderr or done.stdout).strip()[-500:]}")
        lines = [line.split() for line in answers.read_text().splitlines()]
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    times = [float(seconds) for seconds, status, _ in lines if status == "200"]
    span = steady_span(times, started, wall_s, connections)
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return LoadResult(
        requests_per_s=steady_rate(times, started, wall_s, connections),
        p50_ms=summary["p50_ms"],
        p95_ms=summary["p95_ms"],
        p99_ms=summary["p99_ms"],
        num_ok=len(times),
        num_failed=len(lines) - len(times) + summary["timeouts"] + summary["broken"],
        generator_cpu_share=cpu_s / wall_s / num_cores(),
        is_steady=span is not None,
        server_cpu_ms=None if span is None else watch.ms_per_answer(times, *span),
        seconds=seconds,
    )


def prepared(url: str, body: Body) -> tuple[tuple[str, int], Iterator[bytes]]:
    """Host and port, and whole requests to be sent in turn, without end."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {body.content_type}\r\n"
    whole = (f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload for payload in body.payloads)
    return (parts.hostname, parts.port or 80), itertools.cycle(whole)


class LoneClient:
    """One connection that sends one request at a time, as wrk would: all of it in one write, prepared before."""

    def __init__(self, url: str, body: Body) -> None:
        self._address, self._requests = prepared(url, body)

    def __enter__(self) -> LoneClient:
        self._socket = socket.create_connection(self._address, timeout=600)
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def request(self) -> float:
        """Seconds until the whole answer is there.

        Raises:
            LoadError: the answer is not 200, or has no Content-Length.
        """
        payload = next(self._requests)
        started = time.perf_counter()
        self._socket.sendall(payload)
        answer = self._receive()
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._receive()
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer[:end])
        if length is None or not answer.startswith(b"HTTP/1.1 200"):
            raise LoadError(f"{self._address}: {answer[:500]!r}")
        while len(answer) < end + 4 + int(length[1]):
            answer += self._receive()
        return time.perf_counter() - started

    def _receive(self) -> bytes:
        received = self._socket.recv(65536)
        if not received:
            raise LoadError(f"{self._address} closed the connection")
        return received


def run_until_idle(url: str, body: Body, connections: int, seconds: float, server_pid: int) -> LoadResult:
    """`run_wrk`, then wait until the server has nothing left to do."""
    result = run_wrk(url, body, connections, seconds, server_pid)
    wait_idle(server_pid)
    return result


def warm_up_jvm(
    url: str, body: Body, connections: int, server_pid: int, longest_s: float, least_s: float = JVM_WARM_UP_S
) -> str:
    """Load until the JVM has compiled what the load needs: `least_s`, then on while its compilers are busy.

    At 50 requests a second the compilers take 5 to 10 % of a core for two minutes, which is no property of the server.

    Returns:
        What was seen, in words.
    """
    began = time.monotonic()
    seconds, share = least_s, 1.0
    while time.monotonic() - began < longest_s and share >= QUIET_SHARE:
        before, started = compiler_cpu_s(server_pid), time.monotonic()
        run_until_idle(url, body, connections, seconds, server_pid)
        share = (compiler_cpu_s(server_pid) - before) / (time.monotonic() - started)
        seconds = JVM_WARM_UP_S / 2
    return f"warmed up for {time.monotonic() - began:.0f} s; the JVM's compilers then took {share:.1%} of a core"


def run_until_steady(url: str, body: Body, connections: int, seconds: float, server_pid: int) -> LoadResult:
    """`run_until_idle`, twice as long each time until the rate is steady.

    A server that answers too few bursts in the time given would look slower than it is.
    """
    while True:
        result = run_until_idle(url, body, connections, seconds, server_pid)
        if result.is_steady or seconds >= LONGEST_S:
            return result
        seconds = min(2 * seconds, LONGEST_S)


def steady_span(times: Sequence[float], started: float, wall_s: float, connections: int) -> tuple[int, int] | None:
    """The last answers of two bursts, as indexes into `times`, so that no batch between them is counted in part.

    A server that answers 32 requests at once every two seconds would otherwise gain or lose a batch by luck.

    Args:
        times: when answers came, seconds, ascending.
        started: when the load began, on the same clock.
        wall_s: how long it lasted.
        connections: no burst has more answers.

    Returns:
        The end of the first burst after the ramp-up and of the last one; None where there are too few bursts.
    """
    if len(times) < 3:
        return None
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    num_bursts = len(gaps) // connections
    # There are at least so many; of a few, those whose gaps are alike. One gap may be longer than all others.
    pause = sorted(gaps)[-num_bursts] if num_bursts >= MANY_BURSTS else max(gaps) / 4
    ends = [index for index, gap in enumerate(gaps) if gap >= pause]
    ends.append(len(times) - 1)
    after_ramp = [index for index in ends if times[index] >= started + RAMP_UP_SHARE * wall_s]
    if len(after_ramp) < 2 or times[after_ramp[-1]] - times[after_ramp[0]] < MIN_SPAN_SHARE * wall_s:
        return None
    return after_ramp[0], after_ramp[-1]


def steady_rate(times: Sequence[float], started: float, wall_s: float, connections: int) -> float:
    """Answers a second over the steady span, or over all of the time where there is none."""
    span = steady_span(times, started, wall_s, connections)
    if span is None:
        return len(times) / wall_s
    first, last = span
    return (last - first) / (times[last] - times[first])


def multipart(field: str, filename: str, content_type: str, payloads: Sequence[bytes]) -> Body:
    """Forms of one file each."""
    mark = "smartbatchbench"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    forms = tuple(head.encode() + payload + f"\r\n--{mark}--\r\n".encode() for payload in payloads)
    return Body(f"multipart/form-data; boundary={mark}", forms)
