"""What the kernel tells of connections: which of them still owe an answer."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable

import pytest
from smartbatch.server.stopping.sockets import Activity, activities, hang_up, stop_listening

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lends sockets")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_request_owes_an_answer_until_it_has_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

        def only() -> Activity:
            (activity,) = activities(os.getpid(), address[1])
            return activity

        with socket.create_connection(address) as client, listener.accept()[0] as server:
            assert not only().owes_answer, "it has said nothing yet"
            client.sendall(b"a request in the millisecond of its connection")
            wait_until(lambda: only().has_received)
            assert only().owes_answer
            time.sleep(0.02)  # the kernel counts in milliseconds
            server.sendall(b"an answer")
            wait_until(lambda: not only().owes_answer)
            time.sleep(0.02)
            client.sendall(b"the next request")
            wait_until(lambda: only().owes_answer)


def test_newcomers_are_refused_and_others_go_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client, listener.accept()[0] as server:
            stop_listening(os.getpid(), address[1])
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address).close()
            client.sendall(b"x")
            assert server.recv(1) == b"x"


def test_a_client_sees_that_its_connection_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, timeout=60) as client, listener.accept()[0] as server:
            server.sendall(b"an answer")
            hang_up(os.getpid(), address[1])
            assert client.recv(100) == b"an answer"
            assert client.recv(100) == b""
