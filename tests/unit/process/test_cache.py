"""The folder that outlives a server: ours alone or not used, bounded, and never waited for for ever."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from smartbatch_worker.process import cache

from tests.disks import make_read_only, mounted

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a cache, made as a worker makes it."""
    return cache.open_cache({"SMARTBATCH_CACHE_DIR": str(tmp_path / "kept")}, tmp_path / "own")


def opened(wanted: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What is said of a folder that is not taken; "" of one that is."""
    caplog.clear()
    own = wanted.parent / "own"
    taken = cache.open_cache({"SMARTBATCH_CACHE_DIR": str(wanted)}, own)
    assert taken in (own, wanted.resolve())
    assert len(caplog.records) == (taken == own), "one line in the log where it is not taken"
    return caplog.text


def test_the_folder_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for env, expected in (
        ({}, "home/.cache/smartbatch"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "home/.cache/smartbatch"),
        ({"XDG_CACHE_HOME": str(tmp_path / "xdg")}, "xdg/smartbatch"),
        ({"XDG_CACHE_HOME": str(tmp_path / "xdg"), "SMARTBATCH_CACHE_DIR": str(tmp_path / "named")}, "named"),
        ({"SMARTBATCH_CACHE_DIR": "not/absolute"}, "own"),
    ):
        made = cache.open_cache(env, own)
        assert made == tmp_path / expected
        assert made == own or made.stat().st_mode & 0o777 == 0o700


def test_what_others_could_write_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "kept"
    assert opened(folder, caplog) == ""
    for mode in (0o720, 0o702, 0o777, 0o1777):
        folder.chmod(mode)
        assert f"writable by others (mode {mode:04o}, wanted 0700)" in opened(folder, caplog)
    folder.chmod(0o755)  # others may read: there is no secret in it
    assert opened(folder, caplog) == ""


def test_what_lies_where_others_could_swap_it_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    assert "which it is in, is another user's or writable by others" in opened(above / "kept", caplog)
    above.chmod(0o1777)  # as /tmp is: only a folder's owner may move it
    assert opened(above / "kept", caplog) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "above" / "kept"
    assert opened(folder, caplog) == ""
    os.chown(folder, NOBODY, -1)
    assert f"belongs to another user (uid {NOBODY})" in opened(folder, caplog)
    os.chown(folder, 0, -1)
    os.chown(folder.parent, NOBODY, -1)
    assert "which it is in, is another user's" in opened(folder, caplog)


def test_what_is_no_folder_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert "File exists" in opened(tmp_path / "file", caplog)
    for link in ("link", "nowhere"):
        assert f"{link} is no folder" in opened(tmp_path / link, caplog)
    assert "File exists" in opened(tmp_path / "file" / "kept", caplog)


def test_links_on_the_way_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "above").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "above")
    taken = cache.open_cache({"SMARTBATCH_CACHE_DIR": str(tmp_path / "link" / "kept")}, tmp_path)
    assert taken == tmp_path / "above" / "kept"


def test_a_full_or_read_only_disk_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with mounted(tmp_path / "small", "size=64k,mode=700") as disk:
        assert "No space left" in opened(disk / "kept", caplog)
    with mounted(tmp_path / "large", f"size={2 * cache.NEEDED_BYTES},mode=700") as disk:
        assert opened(disk / "kept", caplog) == ""
        assert list((disk / "kept").iterdir()) == []
        make_read_only(disk)
        assert "Read-only file system" in opened(disk / "kept", caplog)
        assert "Read-only file system" in opened(disk / "more", caplog)


def keep(folder: Path, name: str, num_bytes: int) -> Path:
    with cache.scratch(folder) as scratch:
        (scratch / name).write_bytes(b"x" * num_bytes)
        cache.keep(scratch / name, folder / name)
    return folder / name


def test_what_was_not_used_for_the_longest_time_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 4 * 4096)
    kept = [keep(folder, name, 10) for name in ("a.so", "b.json", "c.so", "d.so")]
    for age, path in enumerate(reversed(kept)):
        os.utime(path, (time.time() - 1000 - age,) * 2)
    cache.note_use(kept[0])
    foreign = [folder / "notes.txt", folder / "locks"]
    foreign[0].touch()
    foreign[1].mkdir()
    keep(folder, "e.json", 5000)  # two blocks
    assert sorted(path.name for path in folder.iterdir()) == ["a.so", "d.so", "e.json", "locks", "notes.txt"]


def test_what_a_killed_worker_left_half_made_goes(folder: Path) -> None:
    old, new = folder / "building-old", folder / "building-new"
    for left in (old, new):
        left.mkdir()
        (left / "partial.so").touch()
    os.utime(old, (time.time() - 7200,) * 2)
    keep(folder, "a.so", 10)
    assert not old.exists()
    assert new.exists()


def test_one_at_a_time_makes_the_same(folder: Path) -> None:
    """And others at the same time make others."""
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait()
        with cache.locked(folder, "library", "ab12"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with cache.locked(folder, "library", "ab34"):
        inside.set()
        with cache.locked(folder, "library", "cd"):
            time.sleep(0.1)
            order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_nobody_waits_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cache, "MAX_WAIT_S", 0.05)
    with cache.locked(folder, "library", "ab"), cache.locked(folder, "library", "ab"):
        assert "not waiting any longer" in caplog.text


def test_a_library_or_graph_made_while_measuring_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever their names are: one of 256 began as the measurement's, and its maker waited a minute for itself."""
    monkeypatch.setattr(cache, "MAX_WAIT_S", 0.0)
    with (
        cache.alone(folder, "ab12"),
        cache.locked(folder, "measurement", "ab12"),
        cache.locked(folder, "graph", "ab34"),
        cache.locked(folder, "library", "ab56"),
    ):
        assert not caplog.records
