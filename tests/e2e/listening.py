"""A process that was started takes connections only some time later."""

from __future__ import annotations

import socket
import time
from pathlib import Path


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
