"""How much of what wrk gets from a server `smartbatch predict FOLDER --out` gets: the same bodies, in turns.

    python -m bench.experiments.bulk [--rounds 5] [--seconds 8] [--connections 64] [--only tiny|jpeg] [--out DIR]

Two models: one that does next to nothing, where the client is most of the work, and ResNet18 (random weights, as fast
as trained ones) on JPEGs of 375×500. A round of the command is as many files as wrk's rate would answer in `seconds`.
Its rate is that of the asking, as it says itself: starting Python and writing the output come on top, and are told too.
Client and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract import media_types

from bench import images
from bench.load import Body, run_wrk, warm_up_jvm
from bench.machine import describe
from bench.work import npy

NUM_IMAGES = 8
MAX_FILES = 50_000

LINE = """
import torch

class Line(torch.nn.Module):
    def forward(self, x):
        return 2 * x + 1
"""


@dataclass(slots=True)
class Cell:
    """One model with its bodies, and what was measured."""

    model: str
    suffix: str
    body: Body
    wrk_rates: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    whole_rates: list[float] = field(default_factory=list)
    """From the start of the command to its end."""
    cpu_ms: list[float] = field(default_factory=list)
    """Of the command, a row."""

    @property
    def ratios(self) -> list[float]:
        """Each round's own: the machine drifts."""
        return [ours / theirs for ours, theirs in zip(self.rates, self.wrk_rates, strict=True)]


def cells(only: str | None) -> dict[str, Cell]:
    """By name."""
    numbers = tuple(npy(np.full(4, n, np.float32)) for n in range(NUM_IMAGES))
    photos = tuple(images.jpeg(375, 500, seed) for seed in range(NUM_IMAGES))
    found = {
        "tiny": Cell("line", ".npy", Body(media_types.NPY, numbers)),
        "jpeg": Cell("resnet18", ".jpg", Body(media_types.JPEG, photos)),
    }
    return {name: cell for name, cell in found.items() if only in (None, name)}


def build(folder: Path) -> None:
    """Both archives."""
    (folder / "model.py").write_text(LINE, encoding="utf-8")
    build_archive(ArchiveSettings(model_file=folder / "model.py", name="line", input_shape="4", output=folder))
    build_archive(ArchiveSettings(model="resnet18", random_weights=True, output=folder))


def predict_folder(server: RunningServer, cell: Cell, num_files: int, connections: int, folder: Path) -> None:
    """Run the command once over `num_files` files, and note what it took.

    Raises:
        AssertionError: a row has no answer.
    """
    inputs, out = folder / "inputs", folder / "answers.jsonl"
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir()
    for n in range(num_files):
        (inputs / f"{n:06}{cell.suffix}").write_bytes(cell.body.payloads[n % len(cell.body.payloads)])
    command = [sys.executable, "-m", "smartbatch.cli", "predict", str(inputs), "--out", str(out), "--json"]
    command += [f"--model={cell.model}", f"--run-dir={server.run_dir}", f"--concurrency={connections}"]
    before, began = os.times(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after, seconds = os.times(), time.monotonic() - began
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["answered"] == num_files, summary
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    cell.rates.append(summary["rows_per_s"])
    cell.whole_rates.append(num_files / seconds)
    cell.cpu_ms.append(1000 * cpu_s / num_files)
    out.unlink()


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.experiments.bulk", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--warmup", type=float, default=60, help="seconds at most, of each model")
    parser.add_argument("--only", choices=("tiny", "jpeg"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    found = cells(options.only)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        build(folder)
        settings = ServerSettings(
            model_store=folder, run_dir=folder / "run", inference_port=0, management_port=0, metrics_port=0
        )
        with start_server(settings) as server:
            for name, cell in found.items():
                with server.management() as client:
                    client.register(f"{cell.model}.mar", batch_size=32, max_batch_delay_ms=10, workers=2)
                    client.wait_ready(cell.model)
                url = f"{server.inference_url}/predictions/{cell.model}"
                warm_up_jvm(url, cell.body, options.connections, server.pid, options.warmup)
                for _ in range(options.rounds):
                    run = run_wrk(url, cell.body, options.connections, options.seconds)
                    assert not run.num_failed, run
                    cell.wrk_rates.append(run.requests_per_s)
                    num_files = min(MAX_FILES, round(run.requests_per_s * options.seconds))
                    predict_folder(server, cell, num_files, options.connections, folder)
                    said = f"{name}: wrk {cell.wrk_rates[-1]:.0f}/s, predict {cell.rates[-1]:.0f}/s"
                    print(f"{said}, its CPU {cell.cpu_ms[-1]:.2f} ms a row", file=sys.stderr, flush=True)
    for name, cell in found.items():
        print(
            f"{name}: wrk {statistics.median(cell.wrk_rates):.0f}/s, predict {statistics.median(cell.rates):.0f}/s: "
            f"{statistics.median(cell.ratios):.3f} ({min(cell.ratios):.3f}–{max(cell.ratios):.3f}) of it; "
            f"the whole command {statistics.median(cell.whole_rates):.0f}/s, its CPU "
            f"{statistics.median(cell.cpu_ms):.2f} ms a row"
        )
    results: dict[str, Any] = {
        "machine": describe(),
        "cells": {
            name: {"wrk": cell.wrk_rates, "predict": cell.rates, "whole": cell.whole_rates, "cpu_ms": cell.cpu_ms}
            for name, cell in found.items()
        },
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bulk.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
