"""What is compiled is never loaded damaged, and where it cannot be compiled, Python goes on without it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from smartbatch_worker.kernels import native

from tests.disks import make_read_only, mounted

LIBRARY = "json_numbers"


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def build_apart(folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a library that is cut short ends it by SIGBUS."""
    code = (
        "import sys, pathlib\nfrom smartbatch_worker.kernels import native\n"
        "library = native.build('json_numbers', pathlib.Path(sys.argv[1]))\nprint(library.json_numbers)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_library_is_built_once(tmp_path: Path) -> None:
    assert isinstance(native.build(LIBRARY, tmp_path), ctypes.CDLL)
    (kept,) = libraries(tmp_path)
    changed = kept.stat().st_mtime_ns
    native.build(LIBRARY, tmp_path)
    assert libraries(tmp_path) == [kept]
    assert kept.stat().st_mtime_ns == changed


@pytest.mark.parametrize("damage", ["cut short", "empty", "garbage", "of another name"])
def test_a_damaged_library_is_never_loaded_but_made_again(tmp_path: Path, damage: str) -> None:
    assert build_apart(tmp_path).returncode == 0
    (kept,) = libraries(tmp_path)
    content = kept.read_bytes()
    if damage == "cut short":
        kept.write_bytes(content[:4096])
    elif damage == "of another name":
        kept.write_bytes(content + b"more")
    else:
        kept.write_bytes(b"" if damage == "empty" else b"garbage" * 1000)
    again = build_apart(tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(" is damaged and is made again\n") == 1
    (made,) = libraries(tmp_path)
    assert made.read_bytes()[:4] == b"\x7fELF"


def test_workers_that_start_at_once_share_one(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from smartbatch_worker.kernels import native\n"
        "native.build('json_numbers', pathlib.Path('.'))"
    )
    together = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(4)]
    assert [process.wait(120) for process in together] == [0] * 4
    assert len(libraries(tmp_path)) == 1
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"locks"}


def test_a_folder_that_cannot_be_written_is_said_and_done_without(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as folder:
        make_read_only(folder)
        for cache_dir in (folder, folder / "cache"):
            with pytest.raises(native.NotCompiledError, match="Read-only file system"):
                native.build(LIBRARY, cache_dir)
            assert native.build_if_possible(LIBRARY, cache_dir) is None


def test_a_folder_that_is_read_only_may_hold_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "disk", "size=4m") as folder:
        native.build(LIBRARY, folder)
        make_read_only(folder)
        with monkeypatch.context() as changed:
            changed.setenv("PATH", str(tmp_path))  # no compiler is asked
            changed.delenv("CC", raising=False)
            assert build_apart(folder).returncode == 0


def test_another_compiler_makes_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer one may know instructions that the older did not."""
    native.build(LIBRARY, tmp_path)
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", 'exec gcc "$@"'))
    for _ in range(2):
        native.build(LIBRARY, tmp_path)
        assert len(libraries(tmp_path)) == 2


def test_what_others_remove_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker does that makes room."""
    assert build_apart(tmp_path).returncode == 0
    digest = native._digest

    def vanishing(library: Path) -> str:
        found = digest(library)
        if library.parent == tmp_path and libraries(tmp_path):
            library.unlink()
        return found

    monkeypatch.setattr(native, "_digest", vanishing)
    assert isinstance(native.build(LIBRARY, tmp_path), ctypes.CDLL)
    assert len(libraries(tmp_path)) == 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (r"printf 'Fehler: \374bel\n' >&2; exit 1", "Fehler: �bel"),  # Latin-1
        ("exit 0", "No such file"),
        ('while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"', "file too short"),
    ],
)
def test_a_compiler_that_fails_is_said_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", script))
    with pytest.raises(native.NotCompiledError, match=message):
        native.build(LIBRARY, tmp_path / "cache")
    assert native.build_if_possible(LIBRARY, tmp_path / "cache") is None


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(native.NotCompiledError, match="no C compiler"):
        native.build(LIBRARY, tmp_path)
