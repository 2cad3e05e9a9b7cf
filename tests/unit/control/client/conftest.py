"""Scripted servers, and both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from smartbatch.client import Client

from tests.unit.control.client.scripted import FromTasks, Scripted


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    """Start a server; each is ended with the test."""
    servers: list[Scripted] = []

    def start(*replies: Any, **settings: Any) -> Scripted:
        servers.append(Scripted(*replies, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture(params=[Client, FromTasks], ids=["threads", "tasks"])
def make(request: pytest.FixtureRequest) -> Any:
    """A client's class: for threads, and for tasks."""
    return request.param
