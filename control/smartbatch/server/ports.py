"""Free TCP ports, and who may bind what."""

from __future__ import annotations

import ipaddress
import random
import socket

# Below Linux's ephemeral range (32768-60999): no client connection takes one before the server binds it.
_CANDIDATES = range(20_000, 32_000)
_MAX_TRIES = 1000


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
    """`count` different ports nobody listens on, at random so that servers started at once rarely meet."""
    found: list[int] = []
    for _ in range(_MAX_TRIES):
        port = random.choice(_CANDIDATES)
        if port not in found and is_free(port, host):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"found only {len(found)} of {count} free ports in {_CANDIDATES}")
