"""What a worker that cannot start wrote, as TorchServe's logs have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from smartbatch.remote.model_status import WorkerStatus
from smartbatch.remote.worker_log import FRONTEND_LOG, MODEL_LOG, WorkerLog, find_error

LIFE = """\
[PID]17593
Torch worker started.
Failed to load model raises, exception no weights: ä
Traceback (most recent call last):
  File "ts/model_loader.py", line 143, in load
    initialize_fn(service.context)
    ^^^^^^^^^^^^^
FileNotFoundError: [Errno 2] weights.pt

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "smartbatch_handler.py", line 3, in initialize
handler.errors.RuntimeError: no weights: ä
Backend worker process died.
Traceback (most recent call last):
  File "ts/model_service_worker.py", line 201, in handle_connection
    raise RuntimeError("{} - {}".format(code, result))
RuntimeError: 500 - Unknown exception
"""
MISSING_DEPENDENCY = """\
[PID]1
Backend worker process died.
Traceback (most recent call last):
  File "smartbatch_handler.py", line 1, in <module>
ModuleNotFoundError: No module named 'not_there'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "ts/model_loader.py", line 110, in load
ModuleNotFoundError: No module named 'ts.torch_handler.smartbatch_handler'
"""
CRASH = """\
something is deprecated
Fatal Python error: Segmentation fault

Current thread 0x00007f2bf0487b80 (most recent call first):
  File "smartbatch_handler.py", line 3 in initialize
Extension modules: numpy._core
"""


def worker(number: int = 9000, pid: int = -1) -> WorkerStatus:
    return WorkerStatus(id=str(number), pid=pid, status="UNLOADING", gpu=False, started="")


def write(path: Path, text: str, number: int = 9000, stream: str = "stdout") -> None:
    level = "INFO" if stream == "stdout" else "WARN"
    with path.open("a", encoding="utf-8") as file:
        for line in text.splitlines():
            file.write(f"2026-11-25T21:31:08,069 [{level:5}] W-{number}-tiny_1.0-{stream} MODEL_LOG - {line}\n")


@pytest.mark.parametrize(
    ("text", "stream", "error"),
    [
        (LIFE, "stdout", "RuntimeError: no weights: ä"),
        (MISSING_DEPENDENCY, "stdout", "ModuleNotFoundError: No module named 'not_there'"),
        (CRASH, "stderr", "Fatal Python error: Segmentation fault"),
        ("libfoo.so: cannot open shared object file", "stderr", "libfoo.so: cannot open shared object file"),
        ("[PID]1\nTorch worker started.", "stdout", None),
        ("", "stdout", None),
    ],
)
def test_the_last_error(tmp_path: Path, text: str, stream: str, error: str | None) -> None:
    log = WorkerLog(tmp_path)
    write(tmp_path / MODEL_LOG, text, stream=stream)
    assert log.last_error([worker()]) == error


def test_half_a_traceback_is_not_taken_for_the_reason(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path)
    write(tmp_path / MODEL_LOG, LIFE + LIFE[: LIFE.index("The above")])
    assert log.last_error([worker()]) == "RuntimeError: no weights: ä"


def test_only_this_worker_and_only_from_now_on(tmp_path: Path) -> None:
    write(tmp_path / MODEL_LOG, LIFE)
    log, of_both = WorkerLog(tmp_path), WorkerLog(tmp_path)
    write(tmp_path / MODEL_LOG, LIFE, number=9001)
    assert log.last_error([worker()]) is None
    assert log.num_deaths([worker()]) == 0
    assert of_both.num_deaths([worker(), worker(9001)]) == 1


def test_deaths_are_counted_by_any_sign(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path)
    write(tmp_path / MODEL_LOG, "[PID]7\n")
    assert log.num_deaths([worker(pid=7)]) == 0
    write(tmp_path / MODEL_LOG, "[PID]8\n")
    assert log.num_deaths([worker(pid=8)]) == 1
    write(tmp_path / FRONTEND_LOG, "Load model failed: tiny, error: Worker died.\n" * 2, stream="thread")
    write(tmp_path / MODEL_LOG, "[PID]9\n")
    assert log.num_deaths([worker(pid=8)]) == 2


def test_a_death_counts_once_its_last_words_are_there(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path)
    write(tmp_path / FRONTEND_LOG, "Load model failed: tiny, error: Worker died.\n", stream="thread")
    for part in (LIFE[:100], LIFE[100:-50]):
        write(tmp_path / MODEL_LOG, part.rpartition("\n")[0])
        assert log.num_deaths([worker()]) == 0
    write(tmp_path / MODEL_LOG, LIFE.splitlines()[-1])
    assert log.num_deaths([worker()]) == 1
    write(tmp_path / FRONTEND_LOG, "Load model failed: tiny, error: Worker died.\n", stream="thread")
    write(tmp_path / MODEL_LOG, "[PID]17594")
    write(tmp_path / MODEL_LOG, CRASH, stream="stderr")
    assert log.num_deaths([worker()]) == 1
    write(tmp_path / MODEL_LOG, "[PID]17595")
    assert log.num_deaths([worker()]) == 2


def test_of_a_process_that_writes_nothing_the_next_ones_death_tells(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path)
    counts = []
    for _ in range(3):
        write(tmp_path / FRONTEND_LOG, "Load model failed: tiny, error: Worker died.\n", stream="thread")
        counts.append(log.num_deaths([worker()]))
    assert counts == [0, 1, 2]


def test_the_dead_ones_error_is_told_not_what_a_sibling_that_lives_has_written_so_far(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path)
    write(tmp_path / MODEL_LOG, "something is deprecated", number=9000, stream="stderr")
    write(tmp_path / MODEL_LOG, LIFE, number=9001)
    assert log.last_error([worker(9000), worker(9001)]) == "RuntimeError: no weights: ä"


def test_a_log_that_was_rotated_is_read_from_its_beginning(tmp_path: Path) -> None:
    write(tmp_path / MODEL_LOG, LIFE * 3)
    log = WorkerLog(tmp_path)
    (tmp_path / MODEL_LOG).unlink()
    write(tmp_path / MODEL_LOG, LIFE)
    assert log.num_deaths([worker()]) == 1


def test_bytes_that_are_no_utf8_do_not_matter(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path)
    (tmp_path / MODEL_LOG).write_bytes(b"\xff\xfe\x00\n")
    write(tmp_path / MODEL_LOG, LIFE)
    assert log.last_error([worker()]) == "RuntimeError: no weights: ä"


def test_without_logs_process_ids_tell(tmp_path: Path) -> None:
    log = WorkerLog(None)
    assert log.last_error([worker()]) is None
    assert [log.num_deaths([worker(pid=pid)]) for pid in (-1, 5, 5, 6, 7)] == [0, 0, 0, 1, 2]
    assert "where that TorchServe was started" in log.place
    assert find_error([]) is None
