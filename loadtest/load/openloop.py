"""Open-loop load: requests leave when they are due, whether or not earlier ones have been answered.

A closed loop waits for slow answers and so never sees the queue they cause ("coordinated omission"). Here each
request has an intended send time, and its latency counts from that, even where it left late.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
from smartbatch_load.load.answers import Expected, mismatch
from smartbatch_load.load.interrupt import Interrupt
from smartbatch_load.load.payloads import Payload
from smartbatch_worker.contract.headers import BATCH_SIZE

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Shot:
    """One request. Times are seconds since the load began."""

    intended_s: float
    sent_s: float
    ended_s: float
    ok: bool
    status: int
    """HTTP status; 0 where no answer came."""
    batch_size: int
    error: str

    @property
    def latency_s(self) -> float:
        """From the intended send time."""
        return self.ended_s - self.intended_s

    @property
    def lag_s(self) -> float:
        """How late the generator sent it."""
        return self.sent_s - self.intended_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is sent where."""

    url: str
    payloads: Sequence[Payload]
    expected: Mapping[str, Expected]
    headers: Mapping[str, str]
    """Beside the content type; the token, for one."""
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Volley:
    """The outcome of one rate."""

    shots: list[Shot]
    planned: int
    backlogged: bool
    """Sending stopped early: more answers were outstanding than an objective that holds allows."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal kept some of it from being sent."""
        return not self.backlogged and len(self.shots) < self.planned


def arrivals(rate: float, duration_s: float, *, poisson: bool, seed: int) -> Iterator[float]:
    """Send times, seconds from the start: evenly spaced, or random with the same average."""
    rng = random.Random(seed)
    at = 0.0
    while at < duration_s:
        yield at
        at += rng.expovariate(rate) if poisson else 1 / rate


def fire(load: Load, times: Sequence[float], *, max_outstanding: int, interrupt: Interrupt) -> Volley:
    """Send one request at each of the times, and wait for the answers.

    Args:
        load: what and where.
        times: intended send times, seconds from now, ascending.
        max_outstanding: unanswered requests at which sending stops: the server is overloaded, and filling its
            queue further would only delay what is measured next.
        interrupt: ends sending; what is on its way is then given up.
    """
    return asyncio.run(_fire(load, times, max_outstanding, interrupt))


async def _fire(load: Load, times: Sequence[float], max_outstanding: int, interrupt: Interrupt) -> Volley:
    shots: list[Shot] = []
    outstanding: set[asyncio.Task[None]] = set()
    backlogged = False
    connector = aiohttp.TCPConnector(limit=0, ssl=False)
    timeout = aiohttp.ClientTimeout(total=load.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=load.headers) as session:
        began = time.perf_counter() + 0.05
        for index, at in enumerate(times):
            while not interrupt.is_set and (left := began + at - time.perf_counter()) > 0:
                await asyncio.sleep(min(left, POLL_S))
            if interrupt.is_set:
                break
            if len(outstanding) >= max_outstanding:
                backlogged = True
                break
            payload = load.payloads[index % len(load.payloads)]
            task = asyncio.create_task(_shoot(session, load, payload, began, at, shots))
            outstanding.add(task)
            task.add_done_callback(outstanding.discard)
        while outstanding and not interrupt.is_set:
            await asyncio.wait(outstanding, timeout=POLL_S)
        given_up = list(outstanding)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
    return Volley(shots=shots, planned=len(times), backlogged=backlogged)


async def _shoot(
    session: aiohttp.ClientSession, load: Load, payload: Payload, began: float, at: float, shots: list[Shot]
) -> None:
    sent_s = time.perf_counter() - began
    status, batch_size, error = 0, 0, ""
    try:
        headers = {"Content-Type": payload.content_type}
        async with session.post(load.url, data=payload.body, headers=headers) as response:
            body = await response.read()
            ended_s = time.perf_counter() - began
            status = response.status
            batch_size = int(response.headers.get(BATCH_SIZE, 0))
        if status != 200:
            error = f"HTTP {status}"
        elif wrong := mismatch(load.expected[payload.name], body):
            error = f"wrong answer: {wrong}"
    except (aiohttp.ClientError, TimeoutError) as failure:
        ended_s = time.perf_counter() - began
        error = f"no answer: {type(failure).__name__}"
    shots.append(Shot(at, sent_s, ended_s, not error, status, batch_size, error))
