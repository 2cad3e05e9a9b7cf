"""Copies in the model store: versions, hard links, the lock, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from smartbatch.errors import DeadlineError, UsageError
from smartbatch.remote.process_identity import own_birth
from smartbatch.retune.settings import RetuneSettings
from smartbatch.retune.store import Marker, RetuneStore, is_orphan, next_version, remove_copies_of_server

MARKER = Marker(
    model="m", management_url="http://x", origin="m.mar", replaces="1.0", host=os.uname().nodename, server_pid=None
)


def manifest(version: str) -> str:
    return json.dumps({"model": {"modelName": "m", "modelVersion": version}, "runtime": "python"})


@pytest.fixture
def store(tmp_path: Path) -> RetuneStore:
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", manifest("1.0"))
        archive.writestr("weights.bin", b"\0" * 100)
    return RetuneStore(tmp_path)


def version_of(folder: Path) -> str:
    return str(json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["modelVersion"])


def test_versions_are_used_again() -> None:
    assert next_version("1.0", ["1.0"]) == "1.0-r1"
    assert next_version("1.0-r1", ["1.0-r1"]) == "1.0-r2"
    assert next_version("1.0-r2", ["1.0-r2"]) == "1.0-r1"
    assert next_version("2-rc", ["2-rc"]) == "2-rc-r1"


def test_a_copy_of_an_archive_and_a_copy_of_that(store: RetuneStore) -> None:
    first = store.copy("m.mar", "1.0-r1", MARKER)
    second = store.copy(first.name, "1.0-r2", MARKER)
    assert (version_of(first), version_of(second)) == ("1.0-r1", "1.0-r2")
    assert (first / "weights.bin").samefile(second / "weights.bin")  # nothing is stored twice
    assert {folder for folder, _ in store.copies()} == {first, second}
    assert store.marker(first.name) == MARKER
    assert store.marker("m.mar") is None
    store.remove(first)
    assert (second / "weights.bin").read_bytes() == b"\0" * 100


def test_a_folder_of_one_folder_is_copied_as_torchserve_reads_it(store: RetuneStore) -> None:
    nested = store.folder / "nested" / "root" / "MAR-INF"
    nested.mkdir(parents=True)
    (nested / "MANIFEST.json").write_text(manifest("3"))
    assert version_of(store.copy("nested", "3-r1", MARKER)) == "3-r1"
    assert version_of(store.folder / "nested" / "root") == "3"


@pytest.mark.parametrize("url", ["gone.mar", "http://host/gone.mar", "../m.mar/../../etc", "junk.mar"])
def test_an_archive_that_is_not_there_is_said(store: RetuneStore, url: str) -> None:
    (store.folder / "junk.mar").write_bytes(b"no zip")
    with pytest.raises(UsageError, match="put the archive back"):
        store.copy(url, "2", MARKER)
    assert sorted(path.name for path in store.folder.iterdir()) == ["junk.mar", "m.mar"]


def test_a_broken_manifest_leaves_nothing_behind(store: RetuneStore) -> None:
    with zipfile.ZipFile(store.folder / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
    with pytest.raises(UsageError, match=r"MANIFEST\.json cannot be read"):
        store.copy("m.mar", "2", MARKER)
    assert [path.name for path in store.folder.iterdir()] == ["m.mar"]


def test_a_store_that_is_missing_or_read_only_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        RetuneStore(tmp_path / "missing")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anything
    with pytest.raises(UsageError, match="modelVersion"):
        RetuneStore(tmp_path)


def test_one_at_a_time(store: RetuneStore) -> None:
    order = []

    def second() -> None:
        with RetuneStore(store.folder).lock(60):
            order.append("second")

    with store.lock(1):
        with pytest.raises(DeadlineError, match="another retune"), RetuneStore(store.folder).lock(0):
            pass
        waiting = threading.Thread(target=second)
        waiting.start()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert [path.name for path in store.folder.iterdir()] == ["m.mar"]


def test_a_stopped_server_s_copies_go(store: RetuneStore) -> None:
    def copy_of(pid: int, born: str | None) -> Path:
        return store.copy("m.mar", "2", dataclasses.replace(MARKER, server_pid=pid, server_birth=born))

    mine, before_births = copy_of(123456789, "this boot 7"), copy_of(123456789, None)
    later, other = copy_of(123456789, "this boot 99"), copy_of(2, "this boot 7")
    remove_copies_of_server(store.folder, 123456789, "this boot 7")
    assert not mine.exists()
    assert not before_births.exists()
    assert later.exists(), "a living server got the number"
    assert other.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "nothing to change"), ({"batch_size": 0}, "at least 1"), ({"workers": 0}, "at least 1")],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RetuneSettings(model="m", **fields)


def test_a_copy_is_an_orphan_when_its_server_is_gone_whoever_has_its_number_now() -> None:
    mine = dataclasses.replace(MARKER, server_pid=os.getpid(), server_birth=own_birth())
    assert not is_orphan(mine)
    assert is_orphan(dataclasses.replace(mine, server_birth="another boot 1"))
    assert not is_orphan(dataclasses.replace(mine, server_birth=None))
    assert not is_orphan(dataclasses.replace(mine, host="elsewhere", server_birth="another boot 1"))
