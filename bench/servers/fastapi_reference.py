# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined"
"""The idea SmartBatch began as: FastAPI, an asyncio queue, MAX_WAIT_TIME, nested lists stacked, float32.

Our own reference code. In the identical style the queue stays and the work is the handler's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request, Response

from bench.servers.options import MAX_BATCH_SIZE, MAX_WAIT_MS, Options

OPTIONS = Options.read()
Waiting = tuple[Any, "asyncio.Future[Any]"]


async def batch_forever(queue: asyncio.Queue[Waiting], run: Any) -> None:
    """Wait for one request, then for more until the batch is full or MAX_WAIT_TIME is over; run it; again."""
    loop = asyncio.get_running_loop()
    while True:
        batch = [await queue.get()]
        deadline = time.monotonic() + MAX_WAIT_MS / 1000
        while len(batch) < MAX_BATCH_SIZE:
            left = deadline - time.monotonic()
            try:
                batch.append(queue.get_nowait() if left <= 0 else await asyncio.wait_for(queue.get(), left))
            except (asyncio.TimeoutError, asyncio.QueueEmpty):
                break
        try:
            answers = await loop.run_in_executor(None, run, [item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            continue
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model and start the batcher."""
    app.state.queue = asyncio.Queue()
    if OPTIONS.style == "identical":
        from bench.identical import Worker

        run: Any = Worker(Path(OPTIONS.model_dir), MAX_BATCH_SIZE, num_threads=1).answer
    else:
        from bench.servers.documented import load_model

        model = load_model(OPTIONS.weights)

        def run(items: list[Any]) -> list[Any]:
            with torch.no_grad():
                return model(torch.stack([torch.tensor(item) for item in items])).tolist()  # type: ignore[no-any-return]

    task = asyncio.create_task(batch_forever(app.state.queue, run))
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


async def enqueue(item: Any) -> Any:
    """Wait for this item's turn and answer."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    await app.state.queue.put((item, future))
    return await future


if OPTIONS.style == "identical":

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        """Raw bytes in, the handler's answer out."""
        return Response(await enqueue(await request.body()), media_type="application/json")

else:

    @app.post("/predict")
    async def predict_json(payload: dict[str, Any]) -> dict[str, Any]:
        """`{"data": nested lists}` in, `{"result": logits}` out."""
        return {"result": await enqueue(payload["data"])}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        "bench.servers.fastapi_reference:app", port=OPTIONS.port, workers=OPTIONS.num_workers, log_level="warning"
    )  # fmt: skip
