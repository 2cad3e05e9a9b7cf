"""`smartbatch register`: a model, or a version of one, on a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from smartbatch.commands.options import (
    AsJson,
    BatchSize,
    ChangedServer,
    MaxDelayMs,
    ReadyTimeout,
    Workers,
)
from smartbatch.commands.output import answer, note
from smartbatch.option_groups import composed


@composed
def register(
    *,
    archive: Annotated[str, typer.Argument(help="Archive or folder in the server's model store.")],
    name: Annotated[str | None, typer.Option(help="Serve it under this name; default: the archive's own.")] = None,
    batch_size: BatchSize = None,
    max_delay_ms: MaxDelayMs = None,
    workers: Workers = None,
    timeout: ReadyTimeout = 300.0,
    server: ChangedServer,
    as_json: AsJson = False,
) -> None:
    """Register a model and wait until its workers are READY. Waits for a retune to end first."""
    from smartbatch.retune.model_lock import changing_models
    from smartbatch.retune.register import register_version
    from smartbatch.server.batching import resolve_batching

    batching, notes = resolve_batching(batch_size, max_delay_ms, workers)
    note(notes)
    endpoints = server.endpoints()
    with endpoints.management() as client:
        alone = changing_models(endpoints, server.model_store, timeout, lambda line: note([line]))
        ready = register_version(client, archive, name, batching, timeout, alone)
        default = client.describe(ready.model_name).version
    model = ready.model_name
    if default != ready.version:
        note([f"requests that name no version go to {model} {default}"])
    fields = {
        "model": model,
        "version": ready.version,
        "batch_size": ready.batch_size,
        "max_batch_delay_ms": ready.max_batch_delay_ms,
        "workers": len(ready.workers),
    }
    answer(fields, as_json, f"{model} {ready.version} is ready on {len(ready.workers)} worker(s)")
