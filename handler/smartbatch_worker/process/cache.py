"""What workers build and measure, kept for the servers that start later: one folder a user, bounded, safe for many.

What lies there is loaded into the process, so a folder that another user could write is refused. Whoever adds
something writes it under another name first; a lock only spares others the same work, and is not waited for for ever.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from smartbatch_worker.contract import environment

logger = logging.getLogger(__name__)

MAX_BYTES = 32 << 20
"""Of all that is kept; what was not used for the longest time goes first. A processor's libraries have 0.3 MB."""
NEEDED_BYTES = 4 << 20
"""Free on the disk, for the folder to be used: a compiler needs some for what it makes on the way."""
MAX_WAIT_S = 60.0
"""For another worker's lock: one that was stopped, or measures a very slow model, must not keep others from serving."""

_KEPT = (".so", ".json", ".onnx")
_SCRATCH = "building-"
_MAX_SCRATCH_AGE_S = 3600.0
_POLL_S = 0.02
_BLOCK_BYTES = 4096
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnusableError(Exception):
    """Nothing can be kept in this folder, or whoever can write there is not only us."""


def open_cache(env: Mapping[str, str], instead: Path) -> Path:
    """The folder for what is built and measured, made if need be.

    Args:
        env: names it, by SMARTBATCH_CACHE_DIR or XDG_CACHE_HOME; `~/.cache/smartbatch` where it does not.
        instead: a folder of the server's own; taken, with one line in the log, where the other cannot be used.
    """
    try:
        return users_cache(env)
    except (UnusableError, OSError) as error:
        logger.warning("what is built and measured is kept for this server only, in %s: %s", instead, error)
        return instead


def users_cache(env: Mapping[str, str]) -> Path:
    """The folder that this user's servers share, made if need be.

    Raises:
        UnusableError: another user could write there, or it is no folder.
        OSError: it cannot be made or written, or its disk is full.
    """
    return _checked(_wanted(env))


def _wanted(env: Mapping[str, str]) -> Path:
    named = env.get(environment.CACHE_DIR)
    if named:
        if not Path(named).is_absolute():
            raise UnusableError(f"{environment.CACHE_DIR} must be an absolute path, got {named!r}")
        return Path(named)
    base = Path(env.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # its specification has relative ones ignored
        return base / "smartbatch"
    try:
        return Path.home() / ".cache" / "smartbatch"
    except RuntimeError as error:
        raise UnusableError(f"this user has no home folder ({error})") from error


def _checked(folder: Path) -> Path:
    """The folder without links on the way, once it is known to be ours alone and to have room."""
    if not folder.is_symlink():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise UnusableError(f"{folder} is no folder")
    if found.st_uid != os.geteuid():
        raise UnusableError(f"{folder} belongs to another user (uid {found.st_uid})")
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise UnusableError(f"{folder} is writable by others (mode {stat.S_IMODE(found.st_mode):04o}, wanted 0700)")
    folder = folder.resolve()
    for parent in folder.parents:  # who can write there, could put another folder in its place
        above = parent.stat()
        is_open = above.st_mode & _OTHERS_MAY_WRITE and not above.st_mode & stat.S_ISVTX
        if is_open or above.st_uid not in (0, os.geteuid()):
            raise UnusableError(f"{parent}, which it is in, is another user's or writable by others")
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, NEEDED_BYTES)
    return folder


@contextmanager
def locked(folder: Path, kind: str, key: str) -> Iterator[None]:
    """Hold back others who are about to make the same, for as long as the block runs.

    Others' blocks run all the same once they have waited for MAX_WAIT_S: what they make is made twice, and right.

    Args:
        folder: of the cache.
        kind: of what is made. While one is made, those of another kind may be: it would wait for itself where both
            keys begin alike.
        key: of what is made, in hexadecimal.

    Raises:
        OSError: nothing can be written there.
    """
    with _lock_file(folder, f"{kind}-{key[:2]}") as handle:
        deadline = time.monotonic() + MAX_WAIT_S
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                logger.warning("another worker has been making the same for %g s: not waiting any longer", MAX_WAIT_S)
                break
            time.sleep(_POLL_S)
        yield


@contextmanager
def alone(folder: Path, key: str) -> Iterator[None]:
    """Do what may take minutes when nobody else does the same, for whoever can wait: a thread with nothing else to do.

    Args:
        folder: of the cache.
        key: of what is done, in hexadecimal.

    Raises:
        OSError: nothing can be written there.
    """
    # Not one of `locked`'s: what is done takes those.
    with _lock_file(folder, f"alone-{key[:2]}") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _lock_file(folder: Path, name: str) -> Iterator[int]:
    """A file to lock, open; closing it gives the lock back."""
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    handle = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder on the cache's disk, for what is not whole yet; gone after the block."""
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as made:
        yield Path(made)


def keep(partial: Path, path: Path) -> None:
    """Put what is whole in its place, and make room for it.

    Raises:
        OSError: that failed.
    """
    partial.replace(path)
    _prune(path.parent)


def note_use(path: Path) -> None:
    """Others go first when room is needed."""
    with suppress(OSError):  # of a read-only folder
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def last_use(status: os.stat_result) -> float:
    """When a file was used, as `note_use` notes it."""
    return max(status.st_atime, status.st_mtime)


def _prune(folder: Path) -> None:
    """Remove what was not used for the longest time, down to MAX_BYTES, and what killed workers left half made."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(OSError):  # another worker removes as well
            status = path.lstat()
            if path.name.startswith(_SCRATCH) and time.time() - status.st_mtime > _MAX_SCRATCH_AGE_S:
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix in _KEPT and stat.S_ISREG(status.st_mode):
                blocks = -(-status.st_size // _BLOCK_BYTES)
                found.append((last_use(status), blocks * _BLOCK_BYTES, path))
    num_bytes = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if num_bytes <= MAX_BYTES:
            break
        path.unlink(missing_ok=True)
        num_bytes -= size
