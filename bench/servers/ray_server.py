# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined"
"""Ray Serve: `@serve.batch` in a deployment, one replica as documented."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from bench.servers.options import MAX_BATCH_SIZE, MAX_WAIT_MS, Options

OPTIONS = Options.read()


@serve.deployment(
    num_replicas=OPTIONS.num_workers, max_ongoing_requests=512, ray_actor_options={"num_cpus": 1}
)  # fmt: skip
class Classifier:
    """An image classifier; in the identical style the handler runs the batch."""

    def __init__(self, options: Options) -> None:
        self.options = options
        if options.style == "identical":
            from bench.identical import Worker

            self.worker = Worker(Path(options.model_dir), MAX_BATCH_SIZE, num_threads=1)
        else:
            from bench.servers.documented import load_model

            self.model = load_model(options.weights)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=MAX_WAIT_MS / 1000)
    async def classify(self, bodies: list[bytes]) -> list[Any]:
        """Bodies in, answers out."""
        import torch

        if self.options.style == "identical":
            return list(self.worker.answer(bodies))
        from bench.servers.documented import to_tensor

        with torch.inference_mode():
            batch = torch.stack([to_tensor(body) for body in bodies])
            return [{"class": index} for index in self.model(batch).argmax(1).tolist()]

    async def __call__(self, request: Request) -> Any:
        """One HTTP request."""
        answer = await self.classify(await request.body())
        return Response(answer, media_type="application/json") if isinstance(answer, bytes) else answer


if __name__ == "__main__":
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    ray.init(include_dashboard=False, configure_logging=False, num_cpus=max(2, OPTIONS.num_workers))
    serve.start(http_options={"host": "127.0.0.1", "port": OPTIONS.port})
    serve.run(Classifier.bind(OPTIONS))
    stopped.wait()
    serve.shutdown()
    ray.shutdown()
