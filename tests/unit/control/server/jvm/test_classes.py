"""Which file of classes a JVM is told of, and when it is told of none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from smartbatch.server.jvm import classes
from smartbatch_worker.contract.environment import CACHE_DIR


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Of a Java and two jars."""
    java = tmp_path / "java"
    for path in (java / "bin" / "java", java / "lib" / "server" / "libjvm.so", tmp_path / "ts" / "a.jar"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "b.jar").write_bytes(b"1")
    return [str(java / "bin" / "java"), "-Dx=y", "-cp", f"{tmp_path / 'ts'}/*:{tmp_path / 'own'}/*", "Main", "-f", "x"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "cache").mkdir(mode=0o700)
    return {CACHE_DIR: str(tmp_path / "cache")}


def kept(env: dict[str, str], command: list[str]) -> Path:
    file = classes._file(command, Path(env[CACHE_DIR]))
    file.write_bytes(b"classes")
    return file


def test_a_server_without_a_file_notes_its_classes(command: list[str], env: dict[str, str], tmp_path: Path) -> None:
    assert classes.options(command, tmp_path, env) == [f"-XX:DumpLoadedClassList={tmp_path / 'classes'}"]


def test_a_file_is_read_and_counts_as_used(command: list[str], env: dict[str, str], tmp_path: Path) -> None:
    file = kept(env, command)
    os.utime(file, (1, 1))
    assert f"-XX:SharedArchiveFile={file}" in classes.options(command, tmp_path, env)
    assert file.stat().st_atime > 1


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "java/lib/server/libjvm.so").write_bytes(b"22"),
        lambda folder: (folder / "ts/a.jar").write_bytes(b"22"),
        lambda folder: os.utime(folder / "own/b.jar", (1, 1)),
        lambda folder: (folder / "own/c.jar").write_bytes(b"1"),
    ],
    ids=["another Java", "another TorchServe", "ours was installed again", "one more plugin"],
)
def test_other_jars_have_other_files(
    command: list[str], env: dict[str, str], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    kept(env, command)
    change(tmp_path)
    assert classes.options(command, tmp_path, env) == [f"-XX:DumpLoadedClassList={tmp_path / 'classes'}"]


@pytest.mark.parametrize("chosen", ["-Xshare:off", "-XX:SharedArchiveFile=mine.jsa"])
def test_what_the_user_chose_stays(command: list[str], env: dict[str, str], tmp_path: Path, chosen: str) -> None:
    kept(env, command)
    assert classes.options([command[0], chosen, *command[1:]], tmp_path, env) == []


def test_what_the_users_environment_says_stays(command: list[str], env: dict[str, str], tmp_path: Path) -> None:
    assert classes.options(command, tmp_path, env | {"JAVA_TOOL_OPTIONS": "-Xmx1g -Xshare:off"}) == []
    assert classes.options(command, tmp_path, env | {"JAVA_TOOL_OPTIONS": "-Xmx1g"}) != []


def test_a_folder_that_others_may_write_is_not_used(command: list[str], env: dict[str, str], tmp_path: Path) -> None:
    kept(env, command)
    Path(env[CACHE_DIR]).chmod(0o777)
    assert classes.options(command, tmp_path, env) == []


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    for age in range(4):
        path = tmp_path / f"{age}.jsa"
        path.write_bytes(b"classes")
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "other.so").write_bytes(b"library")
    classes._prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0.jsa", "1.jsa", "other.so"}
