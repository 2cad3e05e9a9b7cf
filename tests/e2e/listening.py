"""A process that was started takes connections only some time later, and a server that has them, the requests."""

from __future__ import annotations

import socket
import time
from collections.abc import Sized
from pathlib import Path

from smartbatch.server.running import RunningServer


def wait_until_listens(port: int, log: Path) -> None:
    """Return once somebody takes connections at a port of loopback; `log` is shown where nobody does for a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=60).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


def wait_received(server: RunningServer, num_sent: int, answered: Sized) -> None:
    """Wait until the server has all requests: who has not connected yet is refused, or is told of what came later."""
    with server.management() as client:
        # In this order: one that is answered in between is counted twice by the other.
        while len(answered) + client.drain_state().answering < num_sent:
            time.sleep(0.01)
