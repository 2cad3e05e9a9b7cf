"""The C code as nobody runs it: every warning an error, and under the sanitizers of addresses and undefined values."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from smartbatch_worker.kernels import native

ROOT = Path(__file__).parents[3]
TESTS = {
    "tests/unit/kernels/test_json_numbers.py": ["test_json_numbers"],
    "tests/unit/flow/test_batch.py": ["test_batch"],
    "tests/unit/kernels/convolutions": ["any_size", "smaller_than", "wide_image", "pools"],
}
"""What runs each kernel: which tests of which file. All in one process: torch is imported, and C compiled, once."""

# The library's own flags stand in its name, so what is built here is never taken for another.
SANITIZED = """
import sys, pytest
from smartbatch_worker.kernels import native
native._FLAGS = ("-O1", "-g1", "-march=native", "-fPIC", "-shared", "-pthread",
                 "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
sys.exit(pytest.main(sys.argv[1:]))
"""

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.mark.parametrize("source", ["json_numbers.c", "pixels.c", "convolutions/winograd.c"])
def test_no_warning(source: str, tmp_path: Path) -> None:
    strict = [
        "gcc",
        *native._FLAGS,
        "-Wall",
        "-Wextra",
        "-Werror",
        str(native.HERE / source),
        "-o",
        str(tmp_path / "x.so"),
    ]
    done = subprocess.run(strict, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(900)  # half a minute where nothing else runs
def test_under_the_sanitizers() -> None:
    # The C++ library with it: it must be there when the sanitizer looks for how exceptions are thrown.
    runtimes = [Path(_gcc_file(name)) for name in ("libasan.so", "libstdc++.so.6")]
    if not all(path.is_absolute() for path in runtimes):
        pytest.skip("gcc has no address sanitizer here")
    names = [name for names in TESTS.values() for name in names]
    # Python's own allocator would hide what lies behind a block; what a process leaves to its end is no fault.
    env = {"LD_PRELOAD": " ".join(map(str, runtimes)), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    # Each takes ten times as long here; their own files see them all, and fuzzing had a million.
    env |= {"JSON_EXAMPLES": "20", "WINOGRAD_EVERY": "6"}
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, "-v", "-x", "-p", "no:cacheprovider", *TESTS, "-k", " or ".join(names)],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in names:
        assert re.search(rf"{name}.* PASSED", done.stdout), f"nothing ran {name}"


def _gcc_file(name: str) -> str:
    """Where gcc has one of its libraries; the bare name where it has not."""
    asked = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()
