"""`smartbatch unregister`: take a model, or a version of one, off a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from smartbatch.commands.options import (
    AsJson,
    ChangedServer,
    DrainTimeout,
    ModelName,
)
from smartbatch.commands.output import answer, say
from smartbatch.option_groups import composed

_READY_TIMEOUT_S = 300.0
"""For the copy without workers that takes over meanwhile."""


@composed
def unregister(
    *,
    model: ModelName,
    version: Annotated[str | None, typer.Option(help="Default: all versions.")] = None,
    drain_timeout: DrainTimeout = 120.0,
    server: ChangedServer,
    as_json: AsJson = False,
) -> None:
    """Remove a model once everything accepted for it is answered; newcomers get 503 meanwhile, 404 afterwards."""
    from smartbatch.retune.scaling import unregister as run
    from smartbatch.retune.targets import scale_target

    endpoints = server.endpoints()
    removed = run(scale_target(endpoints, model, version, server.model_store, _READY_TIMEOUT_S, drain_timeout, say))
    answer({"model": model, "versions": removed}, as_json, f"{model} {', '.join(removed)} is gone")
