"""`smartbatch predict` of many inputs, and both clients, against a real server: y = 2x + 1.

The server's forwards take a while each, so that there is a middle in which to interrupt.
"""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smartbatch import AsyncClient, Client
from smartbatch.bulk.journal import folder_of
from smartbatch.errors import ModelNotReadyError
from smartbatch.server.ports import free_ports
from smartbatch.server.running import RunningServer

from tests.conftest import StartServer
from tests.numbered import numbered

COMMAND = [sys.executable, "-m", "smartbatch.cli", "predict"]
NUM_FILES = 120


@pytest.fixture(scope="module")
def server(start: StartServer) -> Iterator[RunningServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_SLEEP_S", "0.02")
        yield start(tiny_workers=1, batch_size=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """File n holds n, n + 1, n + 2, n + 3."""
    return numbered(tmp_path / "inputs", NUM_FILES)


def wanted(n: int) -> dict[str, Any]:
    return {"result": [2.0 * x + 1 for x in range(n, n + 4)]}


def arguments(server: RunningServer, source: Path | str, out: Path, *more: str) -> list[str]:
    return [*COMMAND, str(source), f"--out={out}", "--model=tiny", f"--run-dir={server.run_dir}", *more]


def run(
    server: RunningServer, source: Path | str, out: Path, *more: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    command = arguments(server, source, out, *more)
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def check_all(out: Path) -> None:
    """Each file has its row, once, in order, with its own answer."""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(NUM_FILES))
    assert [Path(line["input"]).name for line in lines] == [f"{n:03}.npy" for n in range(NUM_FILES)]
    assert [line["answer"] for line in lines] == [wanted(n) for n in range(NUM_FILES)]
    assert not folder_of(out).exists()


def wait_for_rows(out: Path, count: int) -> None:
    """Until the journal has so many lines."""
    rows = folder_of(out) / "rows.jsonl"
    while not rows.exists() or rows.read_bytes().count(b"\n") < count:
        time.sleep(0.01)


def test_killed_again_and_again_each_row_is_there_once(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    for count in (20, 60):
        process = subprocess.Popen(arguments(server, folder, out), stderr=subprocess.DEVNULL)
        wait_for_rows(out, count)
        process.kill()
        process.wait()
        assert not out.exists()
    done = run(server, folder, out, "--json")
    assert done.returncode == 0, done.stderr
    assert "rows are done" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["answered"], summary["failed"]) == (NUM_FILES, NUM_FILES, 0)
    check_all(out)


def test_ctrl_c_says_how_to_go_on(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    command = arguments(server, folder, out, "--concurrency=4")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_rows(out, 10)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"of {NUM_FILES} rows are done; the same command goes on from there" in said
    assert run(server, folder, out).returncode == 0
    check_all(out)


@pytest.mark.mended
def test_a_model_that_goes_away_leaves_rows_open(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    process = subprocess.Popen(arguments(server, folder, out), stderr=subprocess.PIPE, text=True)
    wait_for_rows(out, 10)
    with server.management() as management:
        management.unregister("tiny")
        try:
            _, said = process.communicate(timeout=60)
        finally:
            management.register("tiny.mar", batch_size=4, max_batch_delay_ms=5, workers=1)
            management.wait_ready("tiny")
    assert process.returncode in (4, 6), said  # unknown, or refused as its worker was taken away
    assert "the same command goes on from there" in said
    assert run(server, folder, out).returncode == 0
    check_all(out)


def test_failures_are_rows_and_tried_again(server: RunningServer, tmp_path: Path) -> None:
    out, missing = tmp_path / "answers.csv", tmp_path / "missing.npy"
    lines = f'{{"data": [1, 2, 3, 4]}}\n{missing}\n[[1, 2]]\n'
    failed = run(server, "-", out, stdin=lines)
    assert failed.returncode == 1
    assert "2 of 3 rows failed" in failed.stderr
    assert "--retry-failed tries them again" in failed.stderr
    with out.open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert json.loads(first["answer"]) == {"result": [3, 5, 7, 9]}
    assert (second["input"], second["error_code"], second["error_status"]) == (str(missing), "unreadable", "")
    assert (third["error_code"], third["error_status"]) == ("wrong_shape", "422")

    np.save(missing, np.zeros(4, np.float32))
    again = run(server, "-", out, "--retry-failed", stdin=lines)
    assert again.returncode == 1, "one of them cannot be right"
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert json.loads(rows[1]["answer"]) == {"result": [1, 1, 1, 1]}
    assert [bool(row["error_code"]) for row in rows] == [False, False, True]


def test_a_table_to_a_table(server: RunningServer, tmp_path: Path) -> None:
    values = pa.array([[float(n)] * 4 for n in range(50)], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": list(range(50)), "x": values}), tmp_path / "in.parquet")
    done = run(server, tmp_path / "in.parquet", tmp_path / "out.parquet", "--column=x")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["row"].to_pylist() == list(range(50))
    assert [json.loads(answer)["result"][0] for answer in table["answer"].to_pylist()] == [2 * n + 1 for n in range(50)]


def test_both_clients_with_a_server_that_is_gone(server: RunningServer) -> None:
    urls = [f"http://127.0.0.1:{free_ports(1)[0]}", server.inference_url]
    inputs = [np.full(4, n, np.float32) for n in range(30)]
    with Client(urls, "tiny") as client:
        assert client.is_ready()
        answers = list(client.map(inputs, concurrency=8, accept="npy"))
    assert [answer.array().tolist() for answer in answers] == [[2 * n + 1] * 4 for n in range(30)]
    assert {answer.url for answer in answers} == {server.inference_url}
    assert max(answer.batch_size or 0 for answer in answers) > 1

    async def all_of_them() -> list[float]:
        async with AsyncClient(urls, "tiny") as tasks:
            assert await tasks.is_ready()
            return [answer.result[0] async for answer in tasks.map(inputs, concurrency=8)]

    assert asyncio.run(all_of_them()) == [2 * n + 1 for n in range(30)]


@pytest.mark.mended
def test_a_model_that_there_is_not_is_not_ready(server: RunningServer) -> None:
    with Client(server.inference_url, "nope") as client:
        assert not client.is_ready()
        with pytest.raises(ModelNotReadyError):
            client.predict([1])
