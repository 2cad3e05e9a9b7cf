"""The limit: the same forward in a bare loop, as many processes and threads as SmartBatch has workers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from bench.processes import PROJECT, child_env

SIZES = (1, 2, 4, 8, 16, 32)


class BareLoop:
    """Processes that hold the handler's model and run it on command, all at once."""

    def __init__(self, model_dir: Path, num_processes: int) -> None:
        env = child_env({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
        self._children = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.bare", str(model_dir)],
                env=env,
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(num_processes)
        ]
        for child in self._children:
            _read(child)
        self.best_size = max(SIZES, key=lambda size: self.images_per_s(size, 1.5))

    def images_per_s(self, size: int, seconds: float) -> float:
        """Images a second over all processes, at micro-batches of `size`."""
        return self.run(size, seconds)[0]

    def run(self, size: int, seconds: float) -> tuple[float, float]:
        """Images a second over all processes, and CPU milliseconds an image."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{size} {seconds}\n")
            child.stdin.flush()
        answers = [_read(child) for child in self._children]
        return sum(rate for rate, _ in answers), sum(cpu_ms for _, cpu_ms in answers) / len(answers)

    def stop(self) -> None:
        """End the processes."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
        for child in self._children:
            child.wait()


def _read(child: subprocess.Popen[str]) -> tuple[float, float]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"the bare loop ended with exit code {child.wait()}")
    rate, cpu_ms = json.loads(line)
    return rate, cpu_ms


def main() -> None:
    """Answer each line `size seconds` with [images/s, CPU ms an image]."""
    import torch

    from bench.identical import Worker

    model = Worker(Path(sys.argv[1]), max(SIZES), num_threads=1).handler.model
    pixels = torch.randn(max(SIZES), 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with model.ready():
        model.forward(pixels[:2].contiguous(memory_format=torch.channels_last))
        print([0, 0], flush=True)
        for line in sys.stdin:
            size, seconds = int(line.split()[0]), float(line.split()[1])
            batch = pixels[:size].contiguous(memory_format=torch.channels_last)
            model.forward(batch)
            num_images, started, cpu_started = 0, time.perf_counter(), time.process_time()
            while (took := time.perf_counter() - started) < seconds:
                model.forward(batch)
                num_images += size
            cpu_ms = (time.process_time() - cpu_started) / num_images * 1000
            print([num_images / took, cpu_ms], flush=True)


if __name__ == "__main__":
    main()
