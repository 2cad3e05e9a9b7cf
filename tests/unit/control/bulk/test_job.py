"""A whole bulk prediction against a scripted server: what is a row's failure, what ends the run, what goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from smartbatch.bulk.exchange import AiohttpExchange
from smartbatch.bulk.job import BulkSettings, predict_all
from smartbatch.bulk.journal import folder_of
from smartbatch.bulk.rows import Summary
from smartbatch.client.exchange import HttpxExchange
from smartbatch.errors import (
    DeadlineError,
    InterruptedRunError,
    ModelNotReadyError,
    NotRunningError,
    SmartBatchError,
    UsageError,
)
from smartbatch.server.ports import free_ports

from tests.unit.control.client.scripted import Reply, Scripted

NUM_ROWS = 40
DIED: Reply = (500, {}, b'{"error": {"code": "worker_died", "message": "Worker died."}}')
UNKNOWN: Reply = (404, {}, b'{"error": {"code": "unknown_model", "message": "Model not found: m"}}')


class Doubling(Scripted):
    """Answers a number twice itself, but for what `special` says of it, which may be a reply, or what makes one."""

    def __init__(self) -> None:
        self.special: dict[int, Reply | Callable[[], Reply | None]] = {}
        self.everything: Reply | None = None
        super().__init__()

    def answer(self, body: bytes) -> Reply:
        number = json.loads(body)["data"][0]
        time.sleep(0.002)  # so that several are out at once
        special = self.special.get(number)
        reply = self.everything or (special() if callable(special) else special)
        return reply or (200, {}, json.dumps({"result": 2 * number}).encode())

    @property
    def numbers(self) -> list[int]:
        """Those it was asked for, in order."""
        return sorted(json.loads(body)["data"][0] for _, _, body in self.requests)


@pytest.fixture
def server() -> Iterator[Doubling]:
    server = Doubling()
    yield server
    server.end()


@pytest.fixture(params=["aiohttp", "httpx"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What carries the requests."""
    kind = {"aiohttp": AiohttpExchange, "httpx": HttpxExchange}[request.param]
    monkeypatch.setattr("smartbatch.bulk.job.bulk_exchange", lambda urls, verify: kind(verify=verify, trust_env=False))
    return str(request.param)


@pytest.fixture
def settings(server: Doubling, tmp_path: Path) -> BulkSettings:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f"[{n}]\n" for n in range(NUM_ROWS)))
    return BulkSettings(
        source=str(source),
        out=tmp_path / "out.jsonl",
        model="m",
        urls=[server.url],
        concurrency=4,
        deadline_s=20,
    )


def run(settings: BulkSettings) -> Summary:
    return predict_all(settings, lambda line: None)


def rows(settings: BulkSettings) -> list[Any]:
    """Each row's answer, or its error's code, in order; no row is there twice."""
    lines = [json.loads(line) for line in settings.out.read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(len(lines)))
    return [line["answer"]["result"] if "answer" in line else line["error"]["code"] for line in lines]


WANTED = [2 * n for n in range(NUM_ROWS)]


@pytest.mark.usefixtures("library")
def test_every_row_once_and_in_order(server: Doubling, settings: BulkSettings) -> None:
    summary = run(settings)
    assert rows(settings) == WANTED
    assert (summary.rows, summary.answered, summary.failed) == (NUM_ROWS, NUM_ROWS, 0)
    assert server.numbers == list(range(NUM_ROWS))
    assert 1 < server.most_at_once <= 4
    assert not folder_of(settings.out).exists()
    with pytest.raises(UsageError, match="is there already"):
        run(settings)


def test_what_is_about_a_row_is_that_rows_failure_and_may_be_tried_again(
    server: Doubling, settings: BulkSettings
) -> None:
    server.special[3] = (422, {}, b'{"error": {"code": "wrong_shape", "message": "no"}}')
    summary = run(settings)
    assert (summary.failed, summary.failures) == (1, {"422 wrong_shape": 1})
    assert rows(settings) == [*WANTED[:3], "wrong_shape", *WANTED[4:]]
    assert run(settings).failed == 1, "nothing is left to ask, and it says so again"
    assert len(server.requests) == NUM_ROWS
    del server.special[3]
    assert run(replace(settings, retry_failed=True)).failed == 0
    assert rows(settings) == WANTED
    assert len(server.requests) == NUM_ROWS + 1
    with pytest.raises(UsageError, match=r"--retry-failed: .* has no journal beside it"):
        run(replace(settings, retry_failed=True))


def test_a_row_whose_worker_died_gets_one_more_chance(server: Doubling, settings: BulkSettings) -> None:
    once = iter([DIED])
    server.special = {1: lambda: next(once, None), 2: DIED}
    assert run(settings).failures == {"500 worker_died": 1}
    assert rows(settings) == [*WANTED[:2], "worker_died", *WANTED[3:]]
    assert server.numbers.count(2) == 2


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("reply", "error", "exit_code"),
    [
        (UNKNOWN, ModelNotReadyError, 4),
        ((503, {}, b'{"error": {"code": "no_worker", "message": "none"}}'), SmartBatchError, 6),
        ((400, {}, b'{"error": {"code": "token_refused", "message": "expired"}}'), SmartBatchError, 6),
    ],
    ids=["unknown model", "nobody works", "token"],
)
def test_what_is_the_servers_fault_ends_the_run_and_no_row(
    server: Doubling, settings: BulkSettings, reply: Reply, error: type[SmartBatchError], exit_code: int
) -> None:
    def gone() -> None:
        server.everything = reply

    server.special[20] = gone
    settings = replace(settings, deadline_s=0.5)
    with pytest.raises(SmartBatchError, match="the same command goes on from there") as caught:
        run(settings)
    assert caught.value.exit_code == exit_code
    assert isinstance(caught.value.__cause__, error)
    assert not settings.out.exists()
    before = len((folder_of(settings.out) / "rows.jsonl").read_text().splitlines())
    assert 10 < before < NUM_ROWS
    server.everything = None
    server.special.clear()
    assert run(replace(settings, deadline_s=20)).failed == 0
    assert rows(settings) == WANTED


@pytest.mark.usefixtures("library")
def test_a_server_that_is_gone(settings: BulkSettings) -> None:
    nobody = replace(settings, urls=[f"http://127.0.0.1:{free_ports(1)[0]}"], deadline_s=0.3)
    with pytest.raises(SmartBatchError, match="no server answers") as caught:
        run(nobody)
    assert caught.value.exit_code == NotRunningError.exit_code
    assert run(settings).failed == 0
    assert rows(settings) == WANTED


@pytest.mark.usefixtures("library")
def test_a_server_that_hangs_leaves_rows_open(server: Doubling, settings: BulkSettings) -> None:
    server.gate.clear()
    with pytest.raises(SmartBatchError, match=r"no answer from .* within") as caught:
        run(replace(settings, deadline_s=1))
    assert caught.value.exit_code == DeadlineError.exit_code
    server.gate.set()
    assert run(settings).failed == 0
    assert rows(settings) == WANTED


def test_one_row_that_takes_too_long_fails_alone(server: Doubling, settings: BulkSettings) -> None:
    passed: Reply = (504, {}, b'{"error": {"code": "deadline_passed", "message": "late"}}')
    server.special[5] = passed
    assert run(settings).failures == {"504 deadline_passed": 1}
    assert rows(settings) == [*WANTED[:5], "deadline_passed", *WANTED[6:]]


def test_ctrl_c_answers_what_is_out_and_goes_on_later(server: Doubling, settings: BulkSettings) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

    server.special[10] = interrupt
    with pytest.raises(InterruptedRunError, match="the same command goes on from there"):
        run(settings)
    num_asked = len(server.requests)
    lines = (folder_of(settings.out) / "rows.jsonl").read_text().splitlines()
    assert len(lines) == num_asked < NUM_ROWS, "every request that was out has been answered"
    server.special.clear()
    assert run(settings).failed == 0
    assert rows(settings) == WANTED
    assert server.numbers == list(range(NUM_ROWS)), "no row was asked for twice"


def test_a_second_ctrl_c_waits_for_nobody(server: Doubling, settings: BulkSettings) -> None:
    server.gate.clear()

    def interrupt_twice() -> None:
        while len(server.requests) < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_twice)
    thread.start()
    with pytest.raises(InterruptedRunError):
        run(settings)
    thread.join()
    assert not (folder_of(settings.out) / "rows.jsonl").read_bytes()


def test_another_input_is_refused(server: Doubling, settings: BulkSettings) -> None:
    server.special[20] = UNKNOWN
    with pytest.raises(SmartBatchError, match="Model not found"):
        run(settings)
    source = Path(settings.source)
    lines = source.read_text().splitlines()
    source.write_text("\n".join(["[99]", *lines[1:]]))
    with pytest.raises(UsageError, match="row 0 of the input is not what it was"):
        run(settings)
    source.write_text("[0]\n[1]\n")
    with pytest.raises(UsageError, match=r"the input has 2 rows, and .* when"):
        run(settings)
    with pytest.raises(UsageError, match='model was "m", is "other"'):
        run(replace(settings, model="other"))


def test_a_row_that_cannot_be_read_fails_alone(settings: BulkSettings, tmp_path: Path) -> None:
    source = Path(settings.source)
    source.write_text(f"[1]\n{tmp_path}/missing.npy\n[2]\n")
    assert run(settings).failures == {"unreadable": 1}
    assert rows(settings) == [2, "unreadable", 4]


def test_headers_go_with_every_request(server: Doubling, settings: BulkSettings) -> None:
    run(replace(settings, headers={"X-SmartBatch-Output": "raw"}))
    assert {headers["X-SmartBatch-Output"] for _, headers, _ in server.requests} == {"raw"}
    assert {headers["Content-Type"] for _, headers, _ in server.requests} == {"application/json"}


def test_lines_that_come_slowly_are_asked_for_as_they_come(server: Doubling, settings: BulkSettings) -> None:
    read, write = os.pipe()
    stdin = os.dup(0)
    os.dup2(read, 0)

    def slowly() -> None:
        for number in range(3):
            os.write(write, f"[{number}]\n".encode())
            while len(server.requests) <= number:  # the next line comes only once this one was asked for
                time.sleep(0.005)
        os.close(write)

    thread = threading.Thread(target=slowly)
    thread.start()
    try:
        summary = run(replace(settings, source="-"))
    finally:
        thread.join()
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(read)
    assert summary.rows == 3
    assert rows(settings) == WANTED[:3]
