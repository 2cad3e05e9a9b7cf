"""Another process's TCP server sockets: stop it accepting, and see which of its connections are in use.

TorchServe has no way to close its inference port while requests finish, so on Linux we borrow the JVM's descriptors
(pidfd_getfd, which the kernel allows a parent of the same user) and shut the listening socket down: from then on
newcomers are refused at once by the kernel, and connections already open go on undisturbed.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

_SYS_PIDFD_GETFD = 438  # the same number on every architecture Linux has it on, alpha excepted
# struct tcp_info: eight one-byte fields, then 32-bit counters (some are halves of 64-bit ones); the indexes of four.
_TCP_INFO_BYTES = 160
_LAST_DATA_SENT, _LAST_DATA_RECEIVED, _SEGMENTS_RECEIVED, _SEGMENTS_SENT = 9, 11, 36, 37


class BorrowError(Exception):
    """The kernel does not lend us the process's sockets: not Linux, another user's, or a sandbox forbids it."""


@dataclass(frozen=True, slots=True)
class Activity:
    """How long ago a connection last carried data, as the kernel counts it."""

    last_received_ms: int
    last_sent_ms: int
    has_received: bool
    """The client has sent data on it at all."""
    has_sent: bool
    """And so has the server."""

    @property
    def quiet_ms(self) -> int:
        """Milliseconds since anything went either way."""
        return min(self.last_received_ms, self.last_sent_ms)

    @property
    def owes_answer(self) -> bool:
        """Whether the last thing on it was the client's: a request, or a part of one, without an answer yet."""
        # Until something is sent, the kernel takes the time of the connection for the last one, which on a fast network
        # is the request's as well.
        return self.last_received_ms < self.last_sent_ms or (self.has_received and not self.has_sent)


def stop_listening(pid: int, port: int) -> None:
    """Make process `pid` stop accepting connections on `port`; whoever connects from now on is refused.

    Raises:
        BorrowError: where the kernel does not let us; nothing has changed then.
    """
    for connection in _connections(pid, port):
        if connection.status == psutil.CONN_LISTEN:
            with _borrow(pid, connection.fd) as listener:
                listener.shutdown(socket.SHUT_RD)


def hang_up(pid: int, port: int) -> None:
    """End the sending half of every open connection to `port` of process `pid`: its client sees that it is over.

    Whoever uses it again notices before it sends, and is refused as any newcomer; on one that is reset when the process
    ends, a request is lost.

    Raises:
        BorrowError: where the kernel does not let us.
    """
    for connection in _connections(pid, port):
        if connection.status == psutil.CONN_ESTABLISHED:
            with suppress(OSError), _borrow(pid, connection.fd) as stream:
                stream.shutdown(socket.SHUT_WR)


def activities(pid: int, port: int) -> list[Activity]:
    """The activity of every open connection to `port` of process `pid`.

    Raises:
        BorrowError: where the kernel does not let us look.
    """
    found = []
    for connection in _connections(pid, port):
        if connection.status == psutil.CONN_ESTABLISHED:
            with suppress(OSError), _borrow(pid, connection.fd) as stream:
                info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                counters = struct.unpack_from("=38I", info, 8)
                found.append(
                    Activity(
                        counters[_LAST_DATA_RECEIVED],
                        counters[_LAST_DATA_SENT],
                        has_received=counters[_SEGMENTS_RECEIVED] > 0,
                        has_sent=counters[_SEGMENTS_SENT] > 0,
                    )
                )
    return found


def _connections(pid: int, port: int) -> list[Any]:
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return []
    except psutil.AccessDenied as e:
        raise BorrowError(f"not allowed to look at the sockets of pid {pid}") from e
    return [c for c in connections if c.laddr and c.laddr.port == port and c.fd >= 0]


def _borrow(pid: int, fd: int) -> socket.socket:
    """A socket object on the same kernel socket as descriptor `fd` of process `pid`; closing it closes only ours."""
    if sys.platform != "linux":
        raise BorrowError("only Linux lends sockets")
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as e:
        raise BorrowError(f"pidfd_open: {e.strerror}") from e
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        ours = libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
        if ours < 0:
            raise BorrowError(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(pidfd)
    return socket.socket(fileno=ours)
