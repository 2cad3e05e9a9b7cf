"""The C files beside the Python ones, compiled where they run, for that machine's processor.

A library is kept under a name that says what it was made from and what it must contain, `pixels-<source>-<content>.so`:
one that was cut short, or is anything else, is never loaded (it would end the process by a signal) but made again.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from smartbatch_worker.contract.machine import cpu_flags

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent

# Not -ffast-math: it would swallow NaN, and switch off subnormal numbers for the whole process.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")
_DIGEST_LETTERS = 16
_MAX_MESSAGE_LETTERS = 500


class NotCompiledError(RuntimeError):
    """No C compiler here, or it failed, or there is nowhere to put what it makes."""


def build(name: str, cache_dir: Path, includes: Sequence[str] = (), sources: Path = HERE) -> ctypes.CDLL:
    """Compile `name`.c, once per source and processor, and load it.

    Args:
        name: of the file.
        cache_dir: where the library is kept.
        includes: further files it is made of.
        sources: where they stand.

    Raises:
        NotCompiledError: there is no compiler, it failed, or made what cannot be loaded; or there is no library in
            `cache_dir` and none can be written there.
    """
    source, *included = (sources / file for file in (f"{name}.c", *includes))
    prefix = f"{name}-{_key(source, included)}-"
    kept = _load_kept(cache_dir.absolute(), prefix, remove_damaged=False)  # from a folder that is read-only, too
    if kept is not None:
        return kept
    try:
        with _folder_for(cache_dir.absolute()) as folder:  # a bare name would be looked for in the system's folders
            kept = _load_kept(folder, prefix, remove_damaged=True)
            return kept if kept is not None else _compile(source, folder, prefix)
    except OSError as error:
        raise NotCompiledError(f"{source.name}: {error}") from error


def build_if_possible(name: str, cache_dir: Path) -> ctypes.CDLL | None:
    """`build`, for what has a slower way in Python; where it fails, the log says why, and there is None."""
    try:
        return build(name, cache_dir)
    except NotCompiledError as error:
        logger.info("%s.c is not used, which costs speed: %s", name, error)
        return None


def _key(source: Path, included: Sequence[Path]) -> str:
    """What a library is made from: the sources, the compiler's flags, the processor."""
    digest = hashlib.sha256(source.read_bytes())
    for file in included:
        digest.update(file.read_bytes())
    digest.update(" ".join([*_FLAGS, *sorted(cpu_flags())]).encode())
    return digest.hexdigest()[:_DIGEST_LETTERS]


@contextmanager
def _folder_for(cache_dir: Path) -> Iterator[Path]:
    """`cache_dir`, for one worker at a time: the first compiles, the others load."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    handle = os.open(cache_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield cache_dir
    finally:
        os.close(handle)


def _load_kept(folder: Path, prefix: str, *, remove_damaged: bool) -> ctypes.CDLL | None:
    """A library made before that holds what its name says; the others may be removed by whoever has the lock."""
    for library in sorted(folder.glob(f"{prefix}*.so")):
        try:
            if _digest(library) == library.stem.removeprefix(prefix):
                return ctypes.CDLL(str(library))
            logger.warning("%s is damaged and made again", library)
        except OSError as error:  # of another C library, or not readable
            logger.warning("%s cannot be loaded and is made again: %s", library, error)
        if remove_damaged:
            library.unlink()
    return None


def _compile(source: Path, folder: Path, prefix: str) -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NotCompiledError("there is no C compiler (cc, gcc or clang) on PATH")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        partial = Path(scratch) / "partial.so"
        # Its messages are in the user's language and encoding.
        done = subprocess.run(
            [compiler, *_FLAGS, str(source), "-o", str(partial)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip()[:_MAX_MESSAGE_LETTERS]
            raise NotCompiledError(f"{compiler} failed on {source.name} ({done.returncode}): {said}")
        library = folder / f"{prefix}{_digest(partial)}.so"
        partial.replace(library)
    return ctypes.CDLL(str(library))


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()[:_DIGEST_LETTERS]
