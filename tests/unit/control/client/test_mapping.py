"""Many at once: in order, bounded, with errors and progress."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from smartbatch.client import AsyncClient, Client, Prediction
from smartbatch.client.progress import Shown
from smartbatch.errors import RequestRefusedError, UsageError

from tests.unit.control.client.scripted import OK, Reply, Scripted

Serve = Callable[..., Scripted]


class Echo(Scripted):
    """Answers a number with itself, and refuses negative ones."""

    def answer(self, body: bytes) -> Reply:
        number = json.loads(body)["data"]
        time.sleep(0.002)  # so that several are out at once
        if number < 0:
            return 422, {}, b'{"error": {"code": "negative", "message": "below 0"}}'
        return 200, {}, json.dumps({"result": number}).encode()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.end()


def test_answers_come_in_order_and_several_at_a_time(echo: Echo, make: Any) -> None:
    told: list[tuple[int, int]] = []
    with make(echo.url, "m") as client:
        answers = client.map(range(100), concurrency=8, progress=lambda done, failed: told.append((done, failed)))
        assert [answer.result for answer in answers] == list(range(100))
    assert 1 < echo.most_at_once <= 8
    assert told == [(n, 0) for n in range(1, 101)]


def test_errors_end_it_or_stand_in_their_place(echo: Echo, make: Any) -> None:
    inputs = [1, -1, 2, object()]
    with make(echo.url, "m") as client:
        with pytest.raises(RequestRefusedError, match="422 negative"):
            list(client.map(inputs))
        found = list(client.map(inputs, on_error="return"))
    assert [answer.result for answer in found if isinstance(answer, Prediction)] == [1, 2]
    assert [type(error) for error in found if isinstance(error, Exception)] == [RequestRefusedError, TypeError]


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"concurrency": 0}, "at least 1, got 0"), ({"on_error": "skip"}, "'raise' or 'return', got 'skip'")],
)
def test_settings_are_checked_at_once(make: Any, settings: dict[str, Any], text: str) -> None:
    with make("http://127.0.0.1:1", "m") as client, pytest.raises(UsageError, match=text):
        client.map([], **settings)


def endless(taken: list[int]) -> Iterator[int]:
    while True:
        taken.append(len(taken))
        yield taken[-1]


def test_inputs_without_an_end(echo: Echo) -> None:
    taken: list[int] = []
    with Client(echo.url, "m") as client:
        answers = client.map(endless(taken), concurrency=4)
        for n in range(50):
            assert next(answers).result == n
            assert len(taken) <= n + 1 + 8
        answers.close()  # type: ignore[attr-defined]
    assert len(echo.requests) <= len(taken)


def test_inputs_without_an_end_for_tasks(echo: Echo) -> None:
    taken: list[int] = []

    async def some() -> None:
        async with AsyncClient(echo.url, "m") as client:
            n = 0
            async for answer in client.map(endless(taken), concurrency=4):
                assert answer.result == n
                assert len(taken) <= n + 1 + 8
                n += 1
                if n == 50:
                    break

    asyncio.run(some())


def test_inputs_may_come_from_an_async_iterable(echo: Echo) -> None:
    async def numbers() -> Any:
        for n in range(5):
            await asyncio.sleep(0)
            yield n

    async def everything() -> list[Any]:
        async with AsyncClient(echo.url, "m") as client:
            return [answer.result async for answer in client.map(numbers())]

    assert asyncio.run(everything()) == [0, 1, 2, 3, 4]


def test_an_input_that_raises_ends_the_map(serve: Serve) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    server = serve(OK)
    with Client(server.url, "m") as client, pytest.raises(OSError, match="the disk is gone"):
        list(client.map(broken()))


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Shown(10, done=4, failed=1, stream=stream) as shown:
        for n in range(6):
            shown.advance(failed=n == 0)
    said = stream.getvalue()
    assert "10/10" in said
    assert "2 failed" in said


def test_a_line_now_and_then_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartbatch.client.progress._LINE_EVERY_S", 0.0)
    stream = io.StringIO()
    with Shown(2, stream=stream) as shown:
        shown.advance(failed=False)
        shown.advance(failed=True)
    first, second = stream.getvalue().splitlines()
    assert first.startswith("1 of 2 done, ")
    assert second.startswith("2 of 2 done, ")
    assert "/s, 1 failed, 0 s left" in second
    quiet = io.StringIO()
    monkeypatch.setattr("smartbatch.client.progress._LINE_EVERY_S", 3600.0)
    with Shown(None, stream=quiet) as shown:
        shown.advance(failed=False)
    assert not quiet.getvalue()
