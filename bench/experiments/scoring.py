"""What `smartbatch score` leaves of the bare forward loop: ResNet18 on uint8 `.npy` pictures of 224².

    python -m bench.experiments.scoring [--rounds 5] [--rows 256] [--actors 2] [--out bench/results]

Three figures, each as a share of the rows a second of a loop that does nothing but the model's forward, on a batch that
lies in memory, by the same archive, of the size that its handler measured as the fastest, with one thread a process:
what a process that scores gets (reading, decoding, forward, answers, file), in turns with the loop in the same process;
the same in CPU seconds; and the whole command on Ray, from its first part to its last, beside that loop in as many
processes, before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.machine import describe

SIZE = 224
BATCH_SIZE = 64


def one_process(archive: Path, inputs: Path, rounds: int) -> dict[str, Any]:
    """The loop and a part in turns; run in a process of its own, which becomes the archive's."""
    from smartbatch.scoring.actor import PartScorer, Task
    from smartbatch.scoring.inputs import InputSettings, plan

    with tempfile.TemporaryDirectory() as out:
        planned = plan(InputSettings(given=str(inputs)), 1_000_000, out)
        task = Task(
            input=planned.settings,
            out=out,
            headers={},
            batch_size=BATCH_SIZE,
            cpus=1,
            has_gpu=False,
            environment={},
        )
        scorer = PartScorer(task, archive.read_bytes())
        import torch  # as the archive's handler has it

        handler = scorer._worker._handler
        size: int = handler.model.micro_batch_size((3, SIZE, SIZE))
        batch = torch.rand(size, 3, SIZE, SIZE)
        (part,) = planned.parts
        assert part.rows is not None
        num_batches = -(-part.rows // size)

        def loop() -> int:
            with handler.model.ready():
                for _ in range(num_batches):
                    handler.model.forward(batch)
            return num_batches * size

        def score() -> int:
            scorer._out.reopen(list(scorer._out.done().values()))
            return int(scorer.do(part)["rows"])

        loop()
        found: dict[str, list[tuple[float, float]]] = {"loop": [], "score": []}
        for _ in range(rounds):
            found["loop"].append(timed(loop))
            found["score"].append(timed(score))
    return {"micro_batch": size, "compile": handler.model.compiler, "precision": handler.model.precision, **found}


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Rows a second, and CPU milliseconds a row."""
    began, cpu = time.monotonic(), time.process_time()
    rows = work()
    return rows / (time.monotonic() - began), 1000 * (time.process_time() - cpu) / rows


def processes(count: int, archive: Path, inputs: Path, rounds: int) -> list[dict[str, Any]]:
    """So many of `one_process` at once."""
    command = [sys.executable, "-m", "bench.experiments.scoring", "--one-process", str(archive), str(inputs)]
    command += ["--rounds", str(rounds)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(count)]
    told = [process.communicate() for process in running]
    assert all(process.returncode == 0 for process in running), told
    return [json.loads(stderr.splitlines()[-1]) for _, stderr in told]


def whole_command(archive: Path, inputs: Path, actors: int, rows: int) -> float:
    """Rows a second on Ray, from when every actor has written a part until the last one is written."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "smartbatch.cli", "score", str(inputs), "--out", str(out)]
        command += ["--model", str(archive), "--actors", str(actors), f"--part-rows={rows}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        written = sorted(path.stat().st_mtime for path in out.glob("part-*.parquet"))
        later = written[actors:]
        return len(later) * rows / (later[-1] - written[actors - 1])


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.experiments.scoring", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=256, help="of an actor, a round")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--one-process", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    if options.one_process:
        archive, inputs = options.one_process
        print(json.dumps(one_process(archive, inputs, options.rounds)), file=sys.stderr, flush=True)
        os._exit(0)  # the handler's threads need not end by themselves
    from smartbatch.archive.build import build_archive
    from smartbatch.archive.settings import ArchiveSettings

    from bench import images

    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        archive = build_archive(ArchiveSettings(model="resnet18", random_weights=True, output=folder))
        few, many = folder / "few", folder / "many"
        bodies = [images.uint8_npy(SIZE, seed) for seed in range(8)]
        for inputs, count in ((few, options.rows), (many, 4 * options.actors * options.rows)):
            inputs.mkdir()
            for n in range(count):
                (inputs / f"{n:06}.npy").write_bytes(bodies[n % len(bodies)])
        before = processes(options.actors, archive, few, options.rounds)
        ray_per_s = whole_command(archive, many, options.actors, options.rows)
        after = processes(options.actors, archive, few, options.rounds)
    rates, cpu = [], []
    for each in (*before, *after):
        for loop, score in zip(each["loop"], each["score"], strict=True):
            rates.append(score[0] / loop[0])
            cpu.append(loop[1] / score[1])
    loops = [sum(statistics.median(rate for rate, _ in each["loop"]) for each in run) for run in (before, after)]
    found = {
        "machine": describe(),
        "micro_batch": before[0]["micro_batch"],
        "compile": before[0]["compile"],
        "precision": before[0]["precision"],
        "loop_per_s": loops,
        "process_of_loop": [statistics.median(rates), min(rates), max(rates)],
        "process_of_loop_by_cpu": [statistics.median(cpu), min(cpu), max(cpu)],
        "ray_per_s": ray_per_s,
        "ray_of_loop": ray_per_s / statistics.mean(loops),
    }
    print(json.dumps(found, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scoring.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
