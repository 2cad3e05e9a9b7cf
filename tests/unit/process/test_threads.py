"""Threads follow the workers that compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from smartbatch_worker.flow.decoder_pool import DecoderPool
from smartbatch_worker.flow.rows import Row
from smartbatch_worker.process import threads
from smartbatch_worker.process.siblings import BusyBoard
from smartbatch_worker.process.threads import ThreadShare


@pytest.fixture(autouse=True)
def threads_are_left_as_they_were() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def four_cores_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    board = tmp_path / "busy"
    monkeypatch.setattr(threads, "num_cores", lambda: 4)
    monkeypatch.setattr(threads, "num_workers", lambda: 2)
    monkeypatch.setattr(threads, "board_path", lambda: board)
    return board


def test_a_lone_worker_gets_every_core_and_gives_them_back(four_cores_two_workers: Path) -> None:
    share = ThreadShare("auto")
    other = BusyBoard(four_cores_two_workers, os.getppid())
    with share.computing():
        assert torch.get_num_threads() == 4
        other.start()
        share.adapt()
        assert torch.get_num_threads() == 2
        other.finish()
        share.adapt()
        assert torch.get_num_threads() == 4
        share.share()
        assert torch.get_num_threads() == 2
    other.start()
    assert other.num_busy() == 1  # ours has finished
    with share.computing():
        assert torch.get_num_threads() == 2


def test_a_failing_batch_is_no_longer_counted(four_cores_two_workers: Path) -> None:
    share, other = ThreadShare("auto"), BusyBoard(four_cores_two_workers, os.getppid())

    def fail() -> None:
        assert other.num_busy() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), share.computing():
        fail()
    assert other.num_busy() == 0


def test_a_fixed_number_stays(four_cores_two_workers: Path) -> None:
    share = ThreadShare(3)
    with share.computing():
        assert torch.get_num_threads() == 3
    assert not four_cores_two_workers.exists()


def test_without_a_board_each_worker_gets_its_share(four_cores_two_workers: Path) -> None:
    four_cores_two_workers.symlink_to("elsewhere")
    with ThreadShare("auto").computing():
        assert torch.get_num_threads() == 2
    assert not (four_cores_two_workers.parent / "elsewhere").exists()


def test_a_killed_worker_is_forgotten_and_its_slot_used_again(tmp_path: Path) -> None:
    path = tmp_path / "busy"
    program = (
        "import os, signal, sys; from pathlib import Path; from smartbatch_worker.process.siblings import BusyBoard;"
        "BusyBoard(Path(sys.argv[1]), os.getpid()).start(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    own = BusyBoard(path, os.getpid())
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode < 0
    assert own.num_busy() == 1
    own.forget_the_dead()
    assert own.num_busy() == 0
    own.start()
    assert own.num_busy() == 1


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_row_is_decoded_once(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    rows = [Row(bytes([index]), {}) for index in range(7)]
    seen: list[int] = []

    def decode(row: Row) -> None:
        seen.append(row.body[0])
        if row.body[0] == 3:
            raise ValueError("a bad row")

    DecoderPool().run(decode, rows)
    assert sorted(seen) == list(range(7))
    assert [row.status for row in rows] == [200, 200, 200, 400, 200, 200, 200]
