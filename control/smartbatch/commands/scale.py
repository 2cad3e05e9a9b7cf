"""`smartbatch scale`: more or fewer workers of a running model."""

from __future__ import annotations

from typing import Annotated

import typer

from smartbatch.commands.options import (
    AsJson,
    ChangedServer,
    DrainTimeout,
    ModelName,
    ReadyTimeout,
)
from smartbatch.commands.output import answer, say
from smartbatch.option_groups import composed


@composed
def scale(
    *,
    model: ModelName,
    workers: Annotated[int, typer.Option(help="Worker processes to run; 0: none, requests get 503.", min=0)],
    version: Annotated[str | None, typer.Option(help="Default: the default version.")] = None,
    timeout: ReadyTimeout = 300.0,
    drain_timeout: DrainTimeout = 120.0,
    server: ChangedServer,
    as_json: AsJson = False,
) -> None:
    """Change the number of workers without losing a request; fewer are a retune, and have a version of their own."""
    from smartbatch.retune.scaling import scale as run
    from smartbatch.retune.targets import scale_target

    endpoints = server.endpoints()
    scaled = run(scale_target(endpoints, model, version, server.model_store, timeout, drain_timeout, say), workers)
    fields = {"model": model, "version": scaled.version, "workers": len(scaled.workers)}
    answer(fields, as_json, f"{model} {scaled.version} runs on {len(scaled.workers)} worker(s)")
