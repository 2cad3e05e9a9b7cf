# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined, no-redef"
"""BentoML: an adaptive-batching API on a service; a request carries a list of one image, as a batchable API asks."""

from __future__ import annotations

from pathlib import Path

import bentoml
import torch
from PIL import Image

from bench.servers.options import MAX_BATCH_SIZE, Options

OPTIONS = Options.read()
LIMITS = {"batchable": True, "max_batch_size": MAX_BATCH_SIZE, "max_latency_ms": 300_000}
SERVICE = {"workers": OPTIONS.num_workers, "traffic": {"timeout": 300, "max_concurrency": 1024}}

if OPTIONS.style == "identical":

    @bentoml.service(**SERVICE)
    class Service:
        """The handler's work behind BentoML's dispatcher."""

        def __init__(self) -> None:
            from bench.identical import Worker

            self.worker = Worker(Path(OPTIONS.model_dir), MAX_BATCH_SIZE, num_threads=1)

        @bentoml.api(**LIMITS)
        def classify(self, images: list[Path]) -> list[str]:
            """Files in, the handler's answers out."""
            return [answer.decode() for answer in self.worker.answer([path.read_bytes() for path in images])]

else:

    @bentoml.service(**SERVICE)
    class Service:
        """An image classifier as BentoML's batching page has it."""

        def __init__(self) -> None:
            from bench.servers.documented import load_model

            self.model = load_model(OPTIONS.weights)

        @bentoml.api(**LIMITS)
        def classify(self, images: list[Image.Image]) -> list[int]:
            """Pictures in, best classes out."""
            from bench.servers.documented import TRANSFORM

            with torch.inference_mode():
                batch = torch.stack([TRANSFORM(image.convert("RGB")) for image in images])
                return self.model(batch).argmax(1).tolist()  # type: ignore[no-any-return]


if __name__ == "__main__":
    import os
    import sys

    os.execv(  # the service must be importable by name
        sys.executable,
        [sys.executable, "-m", "bentoml", "serve", "bench.servers.bentoml_server:Service",
         "--host", "127.0.0.1", "--port", str(OPTIONS.port), "--working-dir", str(Path.cwd())],
    )  # fmt: skip
