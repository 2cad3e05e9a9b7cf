"""Fuzz every decoder: `python -m fuzz --executions 1000000`.

Starts from the seeds in `fuzz/seeds.py` and the kept corpus in `fuzz/corpus`; exits with 1 on a finding, whose body it
leaves in --crashes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz.seeds import seeds

CORPUS = Path(__file__).parent / "corpus"
# Shares of the executions; an image costs fifty times as much as the others.
_SHARES = {"json": 0.26, "msgpack": 0.23, "npy": 0.2, "safetensors": 0.2, "gzip": 0.04, "headers": 0.04, "image": 0.03}
_USUAL_SHARE = 0.2  # of a format that none is said for
_MAX_BODY_BYTES = 8192
_MAX_KEPT_BYTES = 2048
_MAX_KEPT_FILES = 40
_LIMITS = ["-timeout=60", "-rss_limit_mb=3072", f"-max_len={_MAX_BODY_BYTES}", "-print_final_stats=1"]


def main() -> int:
    """Run all targets, print one JSON report."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="over all targets together")
    parser.add_argument("--target", choices=sorted(seeds()), action="append", help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="targets at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"), help="where findings are left")
    parser.add_argument("--keep", action="store_true", help="add what reached new code to fuzz/corpus")
    options = parser.parse_args()
    targets = options.target or list(seeds())
    whole = sum(map(_share, targets))
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(_fuzz, name, round(options.executions * _share(name) / whole), options) for name in targets]
        results = [run.result() for run in runs]
    report = {
        "executions": sum(result["executions"] for result in results),
        "findings": sum(result["findings"] for result in results),
        "targets": results,
    }
    print(json.dumps(report, indent=2))
    return 1 if report["findings"] else 0


def _share(name: str) -> float:
    return _SHARES.get(name, _USUAL_SHARE)


def _fuzz(name: str, executions: int, options: argparse.Namespace) -> dict[str, Any]:
    options.crashes.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="smartbatch-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for body in [*seeds()[name], *kept(name)]:
            (corpus / hashlib.sha1(body).hexdigest()).write_bytes(body)
        flags = [f"-runs={executions}", f"-seed={options.seed}", f"-artifact_prefix={options.crashes}/{name}-"]
        finished = _libfuzzer(name, [*flags, *_LIMITS, str(corpus)])
        if options.keep and finished.returncode == 0:
            _keep(name, sorted((path.read_bytes() for path in corpus.iterdir()), key=len))
    log = finished.stdout + finished.stderr
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", log)
    peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", log)
    if finished.returncode != 0:
        (options.crashes / f"{name}.log").write_text(log[-20_000:])
    return {
        "target": name,
        "executions": int(executed[1]) if executed else 0,
        "findings": int(finished.returncode != 0),
        "peak_mib": int(peak[1]) if peak else None,
        "seconds": round(time.monotonic() - start, 1),
    }


def _libfuzzer(name: str, flags: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz.guided", name, *flags]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def kept(name: str) -> list[bytes]:
    """The kept corpus of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*")) if path.is_file()]


def _keep(name: str, bodies: list[bytes]) -> None:
    """Store the shortest body of each outcome that no seed has."""
    from fuzz.targets import TARGETS  # torch; the runs have processes of their own

    seen = {TARGETS[name].outcome(body) for body in seeds()[name]}
    chosen: list[bytes] = []
    for body in bodies:
        outcome = TARGETS[name].outcome(body)
        if outcome not in seen and len(body) <= _MAX_KEPT_BYTES and len(chosen) < _MAX_KEPT_FILES:
            seen.add(outcome)
            chosen.append(body)
    target = CORPUS / name
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        path.unlink()
    for body in chosen:
        (target / hashlib.sha1(body).hexdigest()[:16]).write_bytes(body)


if __name__ == "__main__":
    sys.exit(main())
