"""The C files beside the Python ones, compiled where they run, for that machine's processor.

A library is kept under a name that says what it was made from, by which compiler, and what it must contain,
`pixels-<source>-<compiler>-<content>.so`: one that was cut short, or is anything else, is never loaded (it would end
the process by a signal) but made again.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from smartbatch_worker.contract.machine import cpu_flags, cpu_name
from smartbatch_worker.process import cache

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
    key, compiler = _key(source, included), _compiler()
    folder = cache_dir.absolute()  # a bare name would be looked for in the system's folders
    try:
        # Where there is no compiler, any other's will do; where there is a newer one, it may know more instructions.
        prefix = f"{name}-{key}-" if compiler is None else f"{name}-{key}-{compiler_id()}-"
        kept = _load_kept(folder, prefix, remove_damaged=False)  # from a folder that is read-only, too
        if kept is not None:
            return kept
        with cache.locked(folder, "library", key):  # the first compiles, the others load
            kept = _load_kept(folder, prefix, remove_damaged=True)
            return kept if kept is not None else _compile(compiler, source, folder, prefix)
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
    digest.update(" ".join([*_FLAGS, cpu_name(), *sorted(cpu_flags())]).encode())
    return digest.hexdigest()[:_DIGEST_LETTERS]


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")


def compiler_id() -> str:
    """Which C compiler there is, without asking it: another one, or another version, has another id; "" for none."""
    compiler = _compiler()
    if compiler is None:
        return ""
    path = Path(compiler).resolve()  # an upgrade changes what `cc` leads to, or that file
    status = path.stat()
    return hashlib.sha256(f"{path} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:_DIGEST_LETTERS]


def _load_kept(folder: Path, prefix: str, *, remove_damaged: bool) -> ctypes.CDLL | None:
    """A library made before that holds what its name says; the others may be removed by whoever has the lock."""
    for library in sorted(folder.glob(f"{prefix}*.so")):
        try:
            if _digest(library) == library.stem.rpartition("-")[2]:
                loaded = ctypes.CDLL(str(library))
                cache.note_use(library)
                return loaded
            why = "is damaged"
        except OSError as error:  # of another C library, or not readable
            why = f"cannot be loaded ({error})"
        if remove_damaged:  # it was told of before the lock was asked for
            library.unlink(missing_ok=True)
        else:
            logger.warning("%s %s and is made again", library, why)
    return None


def _compile(compiler: str | None, source: Path, folder: Path, prefix: str) -> ctypes.CDLL:
    if compiler is None:
        raise NotCompiledError("there is no C compiler (cc, gcc or clang) on PATH")
    with cache.scratch(folder) as scratch:
        partial = scratch / "partial.so"
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
        cache.keep(partial, library)
        return ctypes.CDLL(str(library))


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()[:_DIGEST_LETTERS]
