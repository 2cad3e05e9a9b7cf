"""Runs the benches one after the other and takes over what they found, once all of them are done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures.data import NAMES, RUN
from bench.figures.tables import FORWARDS

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Step:
    """One bench: how it is called, and which of its files go where."""

    name: str
    command: tuple[str, ...]
    """Arguments of Python; `{out}` is the folder for what it finds."""
    quick: tuple[str, ...] = ()
    """Added for a rehearsal: later arguments beat earlier ones."""
    files: Mapping[str, str] = field(default_factory=dict)
    """From a name in that folder to a path in the checkout."""

    def arguments(self, out: Path, quick: bool) -> list[str]:
        """The whole command line."""
        words = self.command + (self.quick if quick else ())
        return [sys.executable, *(word.replace("{out}", str(out)) for word in words)]


def _bench(name: str, module: str, *arguments: str, quick: tuple[str, ...]) -> Step:
    """A module of this folder that writes `<name>.json`; its picture, if it has one, is drawn from that."""
    command = ("-m", module, *arguments, "--out", "{out}")
    return Step(name, command, quick, {f"{name}.json": f"docs/bench/{name}.json"})


def _load_test(name: str, *arguments: str, quick: tuple[str, ...], picture: str) -> Step:
    """A load test, which draws its own picture."""
    files = {f"{name}.json": f"docs/bench/{name}.json", picture: f"docs/images/{name}.png"}
    return Step(name, ("-m", "loadtest.cli", name, *arguments, "--out", "{out}"), quick, files)


STEPS = (
    _bench(
        "peers",
        "bench.peers",
        *("--rounds", "3", "--seconds", "8", "--longest-warm-up", "100"),
        quick=("--quick", "--rounds", "1", "--seconds", "2", "--longest-warm-up", "5"),
    ),
    _bench("scale", "bench.scale", "--seconds", "6", quick=("--quick", "--seconds", "1", "--soak-minutes", "0.3")),
    _bench("agreement", "bench.experiments.agreement", quick=("--images", "16")),
    _bench(
        "forward",
        "bench.experiments.forward",
        *("--threads", "1", "--sizes", "1", "8", "32", "--only", *FORWARDS),
        quick=("--seconds", "0.1", "--only", "eager", "folded", "winograd"),
    ),
    _load_test("stress", quick=("--duration", "6s", "--users", "8", "--steps", "2"), picture="performance_plot.png"),
    _load_test(
        "study",
        *("--rounds", "2"),
        quick=("--rounds", "1", "--batch-sizes", "1,8", "--duration", "2s", "--warmup", "1s", "--jvm-warmup", "1s"),
        picture="study.png",
    ),
    _load_test(
        "capacity",
        *("--slo-p95-ms", "500", "--duration", "8s"),
        quick=("--duration", "2s", "--warmup", "1s", "--tolerance", "0.5"),
        picture="capacity.png",
    ),
    Step(
        "top",
        ("-m", "bench.figures.top", "--out", "{out}"),
        ("--users", "4", "--before", "2"),
        {"top.png": "docs/images/top.png"},
    ),
)
"""All that README and docs show, the longest first."""


def measure(steps: Sequence[Step], root: Path, quick: bool) -> None:
    """Run the steps; when the last is done, what they found replaces what stands under `root`.

    A run of all steps leaves no figure of an earlier one; a run of some keeps the others, and no longer says that all
    are of one run.

    Raises:
        subprocess.CalledProcessError: a bench failed; nothing was replaced.
    """
    with tempfile.TemporaryDirectory(prefix="smartbatch-figures-") as folder:
        for step in steps:
            out = Path(folder) / step.name
            out.mkdir()
            command = step.arguments(out, quick)
            started = time.monotonic()
            print(f"[figures] {step.name}: {' '.join(command[1:])}", file=sys.stderr, flush=True)
            subprocess.run(command, cwd=PROJECT, check=True)
            print(f"[figures] {step.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        bench = root / "docs" / "bench"
        bench.mkdir(parents=True, exist_ok=True)
        (root / "docs" / "images").mkdir(exist_ok=True)
        (bench / f"{RUN}.json").unlink(missing_ok=True)
        if {step.name for step in steps} >= set(NAMES):
            for name in NAMES:
                (bench / f"{name}.json").unlink(missing_ok=True)
            run = {"commit": _commit(), "quick": quick, "steps": [step.name for step in steps]}
            (bench / f"{RUN}.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        for step in steps:
            for name, place in step.files.items():
                shutil.copyfile(Path(folder) / step.name / name, root / place)


def _commit() -> str:
    """Of the code that was measured, with a mark if it was changed since."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
