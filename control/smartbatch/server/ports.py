"""Free TCP ports, and who may bind what."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import sys
import threading
import time

# Below Linux's ephemeral range (32768-60999): no client connection takes one before the server binds it.
_CANDIDATES = range(20_000, 32_000)
_MAX_TRIES = 1000
_RESERVED_S = 60.0
"""That is longer than a server takes to bind its ports."""
_reserved: list[tuple[float, int]] = []
"""When, and the descriptor of a socket whose name says so to other processes."""
_reserving = threading.Lock()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could bind `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` different ports nobody listens on, and that nobody else was given lately: at random.

    A server binds them a second or more after they were chosen. On Linux others who choose meanwhile pass them over.
    """
    found: list[int] = []
    for _ in range(_MAX_TRIES):
        port = random.choice(_CANDIDATES)
        if port not in found and is_free(port, host) and _reserve(port):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"found only {len(found)} of {count} free ports in {_CANDIDATES}")


def _reserve(port: int) -> bool:
    """Whether nobody else has reserved it; a name in Linux's abstract namespace, which ends with this process."""
    if sys.platform != "linux":
        return True
    now = time.monotonic()
    with _reserving, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as name:
        while _reserved and _reserved[0][0] < now - _RESERVED_S:
            os.close(_reserved.pop(0)[1])
        try:
            name.bind(f"\0smartbatch-port-{port}")
        except OSError:
            return False
        _reserved.append((now, name.detach()))
    return True
