"""The C files beside the Python ones, compiled where they run, for that machine's processor."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from smartbatch_worker.processor import cpu_flags

logger = logging.getLogger(__name__)

# Not -ffast-math: it would swallow NaN, and switch off subnormal numbers for the whole process.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")


class NotCompiledError(RuntimeError):
    """No C compiler here, or it failed."""


def build(name: str, cache_dir: Path, includes: Sequence[str] = ()) -> ctypes.CDLL:
    """Compile `name`.c, once per source and processor, and load it.

    Args:
        name: of the file, which stands beside this one.
        cache_dir: where the library is kept.
        includes: further files it is made of.

    Raises:
        NotCompiledError: there is no compiler, or it failed.
        OSError: `cache_dir` cannot be written.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    source, *included = (Path(__file__).with_name(file) for file in (f"{name}.c", *includes))
    digest = hashlib.sha256(source.read_bytes())
    for file in included:
        digest.update(file.read_bytes())
    digest.update(" ".join(sorted(cpu_flags())).encode())
    library = cache_dir / f"{name}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        if compiler is None:
            raise NotCompiledError("there is no C compiler (cc, gcc or clang) on PATH")
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
            partial = Path(scratch) / "partial.so"
            command = [compiler, *_FLAGS, str(source), "-o", str(partial)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotCompiledError(f"{compiler} failed on {source.name}: {done.stderr.strip()[:500]}")
            partial.replace(library)
    return ctypes.CDLL(str(library))


def build_if_possible(name: str, cache_dir: Path) -> ctypes.CDLL | None:
    """`build`, for what has a slower way in Python; where it fails, the log says why, and there is None."""
    try:
        return build(name, cache_dir)
    except (NotCompiledError, OSError) as error:
        logger.info("%s.c is not used, which costs speed: %s", name, error)
        return None
