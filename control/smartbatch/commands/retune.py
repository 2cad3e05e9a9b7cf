"""`smartbatch retune`: another batch size, delay or worker count while requests keep coming."""

from __future__ import annotations

from typing import Annotated

import typer

from smartbatch.commands.options import (
    AsJson,
    Canary,
    CanaryUrl,
    ChangedServer,
    DrainTimeout,
    ModelName,
    Overrides,
    ReadyTimeout,
    parse_overrides,
)
from smartbatch.commands.output import answer, note, say
from smartbatch.option_groups import composed


@composed
def retune(
    *,
    model: ModelName,
    batch_size: Annotated[int | None, typer.Option(help="Most requests in a batch.")] = None,
    max_delay_ms: Annotated[float | None, typer.Option(help="Longest wait for a batch.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    overrides: Overrides = None,
    canary: Canary = None,
    timeout: ReadyTimeout = 120.0,
    drain_timeout: DrainTimeout = 120.0,
    server: ChangedServer,
    url: CanaryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Change batch size, delay, workers or any setting of a running model without losing a request."""
    from smartbatch.retune.run import RetuneSettings
    from smartbatch.retune.run import retune as run
    from smartbatch.retune.targets import retune_target
    from smartbatch.server.batching import whole_delay_ms

    delay_ms, notes = (None, []) if max_delay_ms is None else whole_delay_ms(max_delay_ms)
    note(notes)
    settings = RetuneSettings(
        model=model,
        batch_size=batch_size,
        max_batch_delay_ms=delay_ms,
        workers=workers,
        overrides=parse_overrides(overrides or []),
        ready_timeout_s=timeout,
        drain_timeout_s=drain_timeout,
    )
    target = retune_target(server.endpoints(), server.model_store, url, canary, timeout)
    report = run(target.endpoints, settings, target.model_store, target.canary, say=say)
    answer(report.as_dict(), as_json, report.text())
