"""Latencies from the access log: which lines count, and that each counts once whatever happens to file and followers.

Real files, real locks and the real follower; only its thread is left out, so that a test says when it looks.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.torchserve.access_lines import Answered, read_line
from smartbatch_worker.torchserve.access_log import AccessLogFollower, find_access_log
from smartbatch_worker.torchserve.log_tail import MAX_READ_BYTES, LogTail
from smartbatch_worker.torchserve.telemetry import Telemetry

COUNTED = re.compile(rf"\[METRICS\]{names.REQUEST_SECONDS}_count\.unit:(\d+)\|#ModelName:([^,]*),")


def line(
    uri: str, method: str = "POST", status: int = 200, ms: int = 45, prefix: str = "2026-01-31T12:00:00,123 - "
) -> str:
    return f'{prefix}/127.0.0.1:51234 "{method} {uri} HTTP/1.1" {status} {ms}\n'


class Log:
    """An access log, and followers of it that count into one place."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access_log.log"
        self._written: list[str] = []
        self._telemetries: list[Telemetry] = []
        self._followers: list[AccessLogFollower] = []

    def write(self, *uris: str) -> None:
        with self.path.open("a") as log:
            log.writelines(map(line, uris))

    def follower(self, frontend: str = "this one", model: str = "own") -> AccessLogFollower:
        self._telemetries.append(Telemetry(model, "W-1", self._written.append))
        self._followers.append(AccessLogFollower(self.path, self._telemetries[-1], frontend))
        return self._followers[-1]

    def close(self) -> None:
        for follower in self._followers:
            follower.resign()

    def counts(self) -> Counter[str]:
        """Requests counted so far, by model."""
        for telemetry in self._telemetries:
            telemetry.flush()
        found: Counter[str] = Counter()
        for amount, model in COUNTED.findall("".join(self._written)):
            found[model] += int(amount)
        return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(Log(tmp_path)) as one:
        yield one


def count_all(follower: AccessLogFollower) -> None:
    while follower.count():
        pass


@pytest.mark.parametrize(
    ("uri", "model"),
    [
        ("/predictions/m", "m"),
        ("/predictions/m/1.0", "m"),
        ("/predictions/m/1.0/further/path", "m"),
        ("/predictions/m?trace=1", "m"),
        ("/predictions/m/1.0?a=b/c", "m"),
        ("/predictions/m/", "m"),
        ("/predictions/my%20model", "my model"),
        ("/predictions/m%C3%B6del", "mödel"),
        ("/predictions%2Fm", "m"),  # TorchServe cuts at slashes after decoding
        ("/models/m/invoke", "m"),
        ("/models/m/invoke?x=1", "m"),
        ("/v1/models/m:predict", "m"),
        ("/v1/models/m%C3%B6del:predict", "mödel"),
        ("/v2/models/m/infer", "m"),
        ("/v2/models/m/infer?x=1", "m"),
        ("/m/predict", "m"),
        ("/m/1.0/predict", "m"),
        ("/invocations?model_name=m", "m"),
        ("/invocations?a=1;model_name=my+m%C3%B6del", "my mödel"),
        ("/invocations", None),
        ("/invocations?model_name=", None),
    ],
)
def test_every_route_of_a_prediction_is_read(uri: str, model: str | None) -> None:
    assert read_line(line(uri).encode()) == Answered(model, 0.045)


@pytest.mark.parametrize(
    "uri",
    [
        "/ping",
        "/explanations/m",
        "/v1/models/m:explain",
        "/v2/models/m/explain",
        "/v2/models/m",
        "/models/m",
        "/models/predict",
        "/models/m/predict",
        "/workflows/predict",
        "/wfpredict/w",
        "/predictions",
        "/predictions/",
        "/predictions//m",
        "/v1/models/:predict",
        "/metrics",
        "/",
        "/predictions/a,b",  # no metric can carry it
        "/predictions/a%0A[METRICS]",
        "/predictions/a:b",
    ],
)
def test_other_paths_are_not(uri: str) -> None:
    assert read_line(line(uri).encode()) is None


def test_only_what_a_model_answered_with_success_counts() -> None:
    assert read_line(line("/predictions/m", status=404).encode()) is None
    assert read_line(line("/predictions/m", status=503).encode()) is None
    assert read_line(line("/predictions/m", method="OPTIONS").encode()) is None
    assert read_line(line("/predictions/m", method="PATCH").encode()) == Answered("m", 0.045)
    assert read_line(line("/predictions/m", ms=0).encode()) == Answered("m", 0.0005)
    # A quote in a path must not make a line of its own.
    assert read_line(line('/predictions/x"GET', status=404).encode()) is None


@pytest.mark.parametrize("prefix", ["", "1769860800123 ", "31.01.2026 12:00 INFO [epoll-1] ACCESS_LOG - ", "\0\0\0"])
def test_the_layouts_own_words_do_not_matter(prefix: str) -> None:
    assert read_line(line("/predictions/m", prefix=prefix).encode()) == Answered("m", 0.045)


def test_whole_lines_are_counted_once(log: Log) -> None:
    follower = log.follower()
    assert follower.lead()
    assert follower.count() == 0  # no log yet
    log.write("/predictions/a", "/predictions/b?x=1", "/ping")
    whole = line("/predictions/a")
    with log.path.open("a") as file:
        file.write(whole[:30])
    count_all(follower)
    assert log.counts() == {"a": 1, "b": 1}
    with log.path.open("a") as file:
        file.write(whole[30:])
    count_all(follower)
    assert log.counts() == {"a": 2, "b": 1}


def test_an_earlier_servers_lines_are_not_counted(log: Log) -> None:
    log.write("/predictions/old")
    follower = log.follower()
    log.write("/predictions/new")  # before this worker leads, and after its frontend started
    assert follower.lead()
    count_all(follower)
    assert log.counts() == {"new": 1}


def test_an_earlier_servers_position_is_not_taken(log: Log) -> None:
    log.write("/predictions/old")
    earlier = log.follower("the one before")
    assert earlier.lead()
    earlier.resign()
    log.write("/predictions/old")
    follower = log.follower()
    assert follower.lead()
    count_all(follower)
    assert log.counts() == {}


def test_a_rotated_log_is_read_to_its_end_and_then_the_new_one(log: Log) -> None:
    follower = log.follower()
    follower.lead()
    log.write("/predictions/a")
    count_all(follower)
    log.write("/predictions/a")
    rotated = log.path.rename(log.path.with_suffix(".1.log"))
    with gzip.open(rotated.with_suffix(".log.gz"), "wb") as packed:  # as log4j does
        packed.write(rotated.read_bytes())
    rotated.unlink()
    count_all(follower)
    assert log.counts() == {"a": 2}
    log.write("/predictions/b")
    count_all(follower)
    assert log.counts() == {"a": 2, "b": 1}


def test_lines_written_between_a_look_and_the_rotation_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log"

    class RotatedInBetween(LogTail):
        def _was_rotated(self) -> bool:
            with path.open("a") as file:
                file.write("last\n")
            path.rename(tmp_path / "log.1")
            path.write_text("first\n")
            return True

    path.write_text("one\n")
    tail = RotatedInBetween(path, None)
    assert tail.read() == [b"one"]
    assert tail.read() == [b"last"]
    tail.close()


def test_a_log_emptied_in_place_is_read_from_its_beginning(log: Log) -> None:
    follower = log.follower()
    follower.lead()
    log.write("/predictions/a", "/predictions/a")
    count_all(follower)
    os.truncate(log.path, 0)
    log.write("/predictions/b")
    count_all(follower)
    assert log.counts() == {"a": 2, "b": 1}


def test_a_hole_before_the_first_line_is_read_over(tmp_path: Path) -> None:
    """A writer that does not append leaves one where the log was emptied under it."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.seek(2 * MAX_READ_BYTES + 5)
        file.write(line("/predictions/m").encode())
    tail = LogTail(path, None)
    found: list[bytes] = []
    while lines := tail.read():
        found += lines
    tail.close()
    assert [answered for text in found if (answered := read_line(text))] == [Answered("m", 0.045)]


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """/dev/full, where tests send logs that nobody can write, reads as zeros without an end."""
    path = tmp_path / "access_log.log"
    if kind == "device":
        path.symlink_to("/dev/full")
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match="is no plain file"):
        LogTail(path, None).read()


def test_exactly_one_follower_counts_and_the_next_goes_on_where_it_stopped(log: Log) -> None:
    first, second = log.follower(), log.follower()
    assert first.lead()
    assert not second.lead()
    log.write("/predictions/a")
    count_all(first)
    log.write("/predictions/b")
    assert not second.lead()
    first.resign()  # its process ends, and the lock with it
    assert second.lead()
    count_all(second)
    assert log.counts() == {"a": 1, "b": 1}


def test_a_worker_that_comes_after_a_crash_goes_on_in_the_same_file(log: Log) -> None:
    first = log.follower()
    first.lead()
    log.write("/predictions/a")
    count_all(first)
    first.resign()
    log.write("/predictions/b")  # nobody looks
    second = log.follower()
    second.lead()
    count_all(second)
    assert log.counts() == {"a": 1, "b": 1}


def test_a_log_rotated_while_nobody_looked_is_read_from_its_beginning(log: Log) -> None:
    first = log.follower()
    first.lead()
    log.write("/predictions/a", "/predictions/a")
    count_all(first)
    first.resign()
    log.path.rename(log.path.with_suffix(".1.log"))
    log.write("/predictions/b")
    second = log.follower()
    second.lead()
    count_all(second)
    assert log.counts() == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "{",
        "[]",
        "null",
        '{"frontend": "this one"}',
        '{"inode": 1, "offset": 2}',
        '{"frontend": "this one", "inode": INODE, "offset": -3}',
        '{"frontend": "this one", "inode": INODE, "offset": 99999}',
        "\udcff\udcfe",
    ],
)
def test_a_damaged_position_file_harms_nothing(log: Log, kept: str) -> None:
    log.write("/predictions/a")
    position = log.path.with_name("access_log.log.position")
    text = kept.replace("INODE", str(log.path.stat().st_ino))
    position.write_bytes(text.encode(errors="surrogateescape"))
    follower = log.follower()
    assert follower.lead()
    log.write("/predictions/b")
    count_all(follower)
    assert log.counts()["b"] == 1
    follower.resign()
    kept_now = json.loads(position.read_text())
    assert kept_now == {
        "frontend": "this one",
        "inode": log.path.stat().st_ino,
        "offset": log.path.stat().st_size,
    }


def test_requests_without_a_models_name_are_not_guessed(log: Log) -> None:
    """Here no worker of TorchServe's runs, so that nobody can say whose they are."""
    follower = log.follower()
    follower.lead()
    log.write("/invocations", "/invocations?model_name=a")
    count_all(follower)
    assert log.counts() == {"a": 1}


def test_where_the_log_is() -> None:
    assert find_access_log({"SMARTBATCH_ACCESS_LOG": "/x/a.log"}) == Path("/x/a.log")
    assert find_access_log({"LOG_LOCATION": "/y"}) == Path("/y/access_log.log")
