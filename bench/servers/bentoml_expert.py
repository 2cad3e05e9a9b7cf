# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined, no-redef"
"""BentoML as an expert writes it: adaptive batches of files, decoded and computed at once, a worker a core."""

from __future__ import annotations

from pathlib import Path

import bentoml

from bench.servers import expert
from bench.servers.options import Options

SETUP = expert.Setup.read()


@bentoml.service(workers=SETUP.processes, traffic={"timeout": 300, "max_concurrency": 1024})
class Service:
    """A batch of bodies to its classes."""

    def __init__(self) -> None:
        self.expert = expert.Expert(SETUP)

    @bentoml.api(batchable=True, max_batch_size=SETUP.batch_size, max_latency_ms=300_000)
    def classify(self, images: list[Path]) -> list[int]:
        """Files in, best classes out."""
        return self.expert.answer([path.read_bytes() for path in images])


if __name__ == "__main__":
    import os
    import sys

    os.execv(  # the service must be importable by name
        sys.executable,
        [sys.executable, "-m", "bentoml", "serve", "bench.servers.bentoml_expert:Service",
         "--host", "127.0.0.1", "--port", str(Options.read().port), "--working-dir", str(Path.cwd())],
    )  # fmt: skip
