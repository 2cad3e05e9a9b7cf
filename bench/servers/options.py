"""What every peer's server is started with: equal batch limits, equal weights, one of three styles."""

from __future__ import annotations

import os
from dataclasses import dataclass

from smartbatch_worker.contract.machine import num_cores

MAX_BATCH_SIZE = 32
MAX_WAIT_MS = 10


@dataclass(frozen=True, slots=True)
class Options:
    """Read from the environment, because some frameworks import a server's module in processes of their own."""

    style: str
    """documented, identical or expert, whose batch size and workers `expert.Setup` has."""
    port: int
    weights: str
    """State dict (.pth) for the documented style."""
    model_dir: str
    """An unpacked SmartBatch archive for the identical style."""

    @property
    def num_workers(self) -> int:
        """As documented: the framework's default of one. Identical: one a core, one thread each, as SmartBatch."""
        return num_cores() if self.style == "identical" else 1

    @classmethod
    def read(cls) -> Options:
        """The options of this process."""
        env = os.environ
        return cls(
            env["BENCH_STYLE"], int(env["BENCH_PORT"]), env["BENCH_WEIGHTS"], env["BENCH_MODEL_DIR"]
        )  # fmt: skip
