"""Installs the project's environment by two pips at a time: unpacking gigabytes keeps one busy, and it has one core.

    .venv/bin/python .ci/install.py '.[dev]'

One pip works out what is wanted, two install what it found, largest first, and none of them compiles bytecode.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
NUM_PIPS = 2


def wanted(requirement: str) -> list[dict[str, Any]]:
    """What pip would install, but the project itself."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run([*PIP, "install", "-q", "--dry-run", "--report", str(report), "-e", requirement], check=True)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [one for one in found if "dir_info" not in one["download_info"]]


def size(one: dict[str, Any]) -> int:
    """Of the file, bytes; 0 where it is not on this machine."""
    path = Path(unquote(urlsplit(one["download_info"]["url"]).path))
    return path.stat().st_size if path.is_file() else 0


def main(requirement: str) -> int:
    """Install; the first pip that fails is the exit status."""
    shares: list[list[str]] = [[] for _ in range(NUM_PIPS)]
    loads = [0] * NUM_PIPS
    for one in sorted(wanted(requirement), key=size, reverse=True):
        least = loads.index(min(loads))
        metadata = one["metadata"]
        shares[least].append(f"{metadata['name']}=={metadata['version']}")
        loads[least] += size(one) + 1
    install = [*PIP, "install", "-q", "--no-deps", "--no-compile"]
    running = [subprocess.Popen([*install, *share]) for share in shares if share]
    failed = [process.wait() for process in running]
    if any(failed):
        return max(failed)
    return subprocess.run([*install, "-e", requirement], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
