"""The second server of a machine finds Java's classes as the first one left them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from smartbatch.server.jvm import classes
from smartbatch.server.jvm.command import MAIN_CLASS
from smartbatch.server.running import RunningServer
from smartbatch.server.stopping.stop import stop_server
from smartbatch_worker.contract.environment import CACHE_DIR, FRONTEND

from tests.e2e.serve_process import served

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def file(cache: Path, model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first server left."""
    env = {CACHE_DIR: str(cache)}
    with served(model_store, tmp_path_factory.mktemp("first"), env=env) as first:
        while not list(cache.glob("*.jsa")):
            assert first.process.poll() is None
            time.sleep(0.1)
        assert stop_server(first.run_dir, None, 30).complete
    (left,) = cache.glob("*.jsa")
    return left


@pytest.fixture(scope="module")
def second(start: Any, cache: Path, file: Path) -> RunningServer:
    """Told of it."""
    server: RunningServer = start(tiny_workers=1, env={CACHE_DIR: str(cache)})
    assert file.exists()
    return server


def test_the_second_server_reads_them(second: RunningServer, file: Path) -> None:
    mapped = {entry.path for entry in psutil.Process(second.pid).memory_maps()}
    assert str(file) in mapped
    answer = requests.post(f"{second.inference_url}/predictions/tiny", json={"data": [1, 2, 3, 4]}, timeout=60)
    assert answer.json() == {"result": [3.0, 5.0, 7.0, 9.0]}
    with second.management() as client:  # ours are defined before TorchServe's are taken from the file
        assert client.frontend()["frontend"] == os.environ.get(FRONTEND, "mended")
    assert not (Path(second.state.tmp_dir) / classes.NOTED).exists()


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 4096]) + content[middle + 4096 :]


def garbage(_content: bytes) -> bytes:
    return b"garbage" * 100_000


@pytest.mark.parametrize("damage", [cut_short, changed_in_the_middle, garbage])
def test_a_damaged_file_is_passed_over(
    second: RunningServer, file: Path, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    java, *arguments = psutil.Process(second.pid).cmdline()
    command = [java, *arguments[: arguments.index(MAIN_CLASS) + 1], "--no-such-option"]
    without = [argument for argument in command if str(file) not in argument]
    damaged = tmp_path / file.name
    damaged.write_bytes(damage(file.read_bytes()))
    command = [argument.replace(str(file), str(damaged)) for argument in command]
    assert command != without

    runs = [
        subprocess.run(each, cwd=second.run_dir, capture_output=True, text=True, timeout=120)
        for each in (command, without)
    ]

    assert runs[0].returncode == runs[1].returncode
    assert runs[0].stdout == runs[1].stdout
    assert "no-such-option" in runs[0].stdout + runs[0].stderr


@pytest.mark.parametrize("damage", [cut_short, changed_in_the_middle, garbage, None])
def test_a_damaged_file_is_removed_for_the_next_server_to_write_anew(
    second: RunningServer,
    file: Path,
    damage: Callable[[bytes], bytes] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseParallelGC")  # with which Java takes no other collector
    tmp_path.chmod(0o700)
    kept = tmp_path / file.name
    kept.write_bytes(file.read_bytes() if damage is None else damage(file.read_bytes()))
    log = Path(second.run_dir) / "logs" / classes.LOG
    classes.remove_damaged(second.state, {CACHE_DIR: str(tmp_path)})
    assert kept.exists() == (damage is None)
    assert log.exists() == (damage is not None)
    if damage is not None:
        assert log.read_text().endswith(f"{kept} is damaged, and was removed: the next server makes it again\n")
