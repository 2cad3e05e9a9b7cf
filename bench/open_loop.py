"""Open-loop load over plain sockets: requests leave when they are due, whatever is still unanswered.

    python -m bench.open_loop [--kilobytes 40] [--seconds 4]

prints the generator's own ceiling: how late it sends, and its CPU a request, against a server that only answers.

`smartbatch capacity` sends by aiohttp, which costs CPU that a server on the same cores then lacks. This one writes
bytes that were prepared before, and of an answer reads a status and a length.
"""

from __future__ import annotations

import argparse
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from smartbatch_load.load.openloop import Shot, Volley, arrivals

from bench.load import Body, prepared

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_LAST_CHUNK = b"0\r\n\r\n"
_POLL_S = 0.1


@dataclass(eq=False, slots=True)
class _Connection:
    """One connection, with at most one request on it."""

    socket: socket.socket
    intended_s: float = 0.0
    sent_s: float = 0.0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    events: int = selectors.EVENT_READ
    received: bytes = b""
    is_busy: bool = False


class OpenLoop:
    """One run of load against one server.

    Args:
        url: where to POST.
        body: bodies, sent in turn.
    """

    def __init__(self, url: str, body: Body) -> None:
        self._address, self._requests = prepared(url, body)
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._shots: list[Shot] = []
        self._began = 0.0

    def fire(self, times: Sequence[float], max_outstanding: int, timeout_s: float = 30.0) -> Volley:
        """Send one request at each of the times, and wait for the answers; once only.

        Args:
            times: intended send times, seconds from now, ascending.
            max_outstanding: unanswered requests at which sending stops: the server is overloaded.
            timeout_s: after the last request; what is unanswered then has failed.
        """
        is_backlogged, number = False, 0
        self._began = time.perf_counter()
        try:
            while True:
                while number < len(times) and times[number] <= self._now() and not is_backlogged:
                    is_backlogged = len(self._busy) >= max_outstanding
                    if not is_backlogged:
                        self._send(times[number])
                        number += 1
                is_over = is_backlogged or number == len(times)
                if is_over and not self._busy:
                    break
                if is_over and self._now() > times[number - 1] + timeout_s:
                    for connection in list(self._busy):
                        self._fail(connection, "no answer in time")
                    break
                self._wait(_POLL_S if is_over else times[number] - self._now())
        finally:
            for key in list(self._selector.get_map().values()):
                key.data.socket.close()
            self._selector.close()
        return Volley(shots=self._shots, planned=len(times), backlogged=is_backlogged)

    def _now(self) -> float:
        return time.perf_counter() - self._began

    def _send(self, intended_s: float) -> None:
        if self._idle:
            connection = self._idle.pop()
        else:
            try:
                connection = self._connect()
            except OSError as error:
                now = self._now()
                self._shots.append(Shot(intended_s, now, now, False, 0, 0, type(error).__name__))
                return
        connection.intended_s, connection.sent_s = intended_s, self._now()
        connection.unsent, connection.received, connection.is_busy = memoryview(next(self._requests)), b"", True
        self._busy.add(connection)
        self._write(connection)

    def _connect(self) -> _Connection:
        connection = _Connection(socket.create_connection(self._address, timeout=10))
        connection.socket.setblocking(False)
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection.socket, connection.events, connection)
        return connection

    def _wait(self, seconds: float) -> None:
        for key, mask in self._selector.select(max(0.0, seconds)):
            connection = key.data
            if mask & selectors.EVENT_WRITE:
                self._write(connection)
            if mask & selectors.EVENT_READ and connection.socket.fileno() >= 0:
                self._read(connection)

    def _write(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(connection, type(error).__name__)
            return
        connection.unsent = connection.unsent[sent:]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if events != connection.events:
            connection.events = events
            self._selector.modify(connection.socket, events, connection)

    def _read(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(connection, type(error).__name__)
            return
        if not received:  # the server has closed it
            self._fail(connection, "connection closed")
            return
        connection.received += received
        if (status := _status_of(connection.received)) is None:
            return
        wrong = "" if status == 200 else f"HTTP {status}"
        self._shots.append(Shot(connection.intended_s, connection.sent_s, self._now(), not wrong, status, 0, wrong))
        self._busy.discard(connection)
        connection.is_busy = False
        self._idle.append(connection)
        if connection.unsent:  # answered before it was all there: the rest would begin the next request
            self._fail(connection, "")

    def _fail(self, connection: _Connection, error: str) -> None:
        """The connection is of no more use; nor is the request on it, if there is one."""
        if connection.is_busy:
            self._shots.append(Shot(connection.intended_s, connection.sent_s, self._now(), False, 0, 0, error))
            self._busy.discard(connection)
        else:
            self._idle.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()


def _status_of(answer: bytes) -> int | None:
    """The status of an answer that is all there; None where it is not yet."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = LENGTH.search(answer, 0, end)
    is_whole = answer.endswith(_LAST_CHUNK) if length is None else len(answer) >= end + 4 + int(length[1])
    return int(answer[9:12]) if is_whole else None


_ECHO = """
import asyncio
from bench.open_loop import LENGTH
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 12\\r\\n\\r\\n{\\"class\\": 1}"
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            await reader.readexactly(int(LENGTH.search(head)[1]))
            writer.write(ANSWER)
    except asyncio.IncompleteReadError:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def main() -> int:
    """Print rate by rate how late it sends."""
    from bench.processes import PROJECT, child_env

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kilobytes", type=int, default=40, help="of a body")
    parser.add_argument("--seconds", type=float, default=4.0, help="at each rate")
    args = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", _ECHO], env=child_env({}), cwd=PROJECT, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
        body = Body("image/jpeg", (bytes(1000 * args.kilobytes),))
        for rate in (125, 250, 500, 1000, 2000, 4000):
            times = list(arrivals(rate, args.seconds, poisson=True, seed=0))
            cpu_s = time.process_time()
            volley = OpenLoop(url, body).fire(times, max_outstanding=10_000)
            cpu_ms = 1000 * (time.process_time() - cpu_s) / max(1, len(volley.shots))
            lags = sorted(shot.lag_s for shot in volley.shots)
            late = 1000 * lags[int(0.95 * (len(lags) - 1))]
            failed = sum(not shot.ok for shot in volley.shots)
            print(f"{rate:5} requests/s: {late:6.2f} ms late at p95, {cpu_ms:.3f} ms of CPU each, {failed} failed")
    finally:
        server.terminate()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
