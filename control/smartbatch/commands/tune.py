"""`smartbatch tune`: measure a running model's forward again, and use what is fastest."""

from __future__ import annotations

from typing import Any

from smartbatch.commands.options import (
    AsJson,
    Canary,
    CanaryUrl,
    ChangedServer,
    DrainTimeout,
    ModelName,
    ReadyTimeout,
)
from smartbatch.commands.output import answer, say
from smartbatch.errors import DeadlineError, UsageError
from smartbatch.option_groups import composed


@composed
def tune(
    *,
    model: ModelName,
    canary: Canary = None,
    timeout: ReadyTimeout = 120.0,
    drain_timeout: DrainTimeout = 120.0,
    server: ChangedServer,
    url: CanaryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Measure a running model's forward again: which micro-batch and which convolutions are fastest here, now.

    A model is measured once a week, when it is loaded, and what was found is kept for all later servers. Measure again
    after other programs have left or joined the machine, or when it was busy that first time. No request is lost: new
    workers measure while the old ones serve, as `smartbatch retune` does it.
    """
    from smartbatch.remote.status import describe_workers
    from smartbatch.retune.run import RetuneSettings, retune
    from smartbatch.retune.targets import retune_target

    settings = RetuneSettings(model=model, measure_again=True, ready_timeout_s=timeout, drain_timeout_s=drain_timeout)
    target = retune_target(server.endpoints(), server.model_store, url, canary, timeout)
    if target.canary.inference_url is None:
        raise UsageError("measuring needs a request: name the server's inference address by --url")
    with target.endpoints.management() as client:
        before = _measured(describe_workers(client, client.describe(model)))
        report = retune(target.endpoints, settings, target.model_store, target.canary, say=say)
        after = _measured(describe_workers(client, client.describe(model, report.version)))
    if after is None:
        raise DeadlineError(
            f"{model} {report.version} serves, but no worker says what it measured: its workers are busy (see "
            "`smartbatch status`), or the model has no input_shape to measure with, or a fixed micro_batch"
        )
    fields = {"model": model, "version": report.version, "before": before, "after": after}
    answer(fields, as_json, _text(model, before, after))


def _measured(workers: Any) -> dict[str, Any] | None:
    """What the first worker that has measured says: compiler, size by shape, milliseconds by size and shape."""
    keys = ("compile", "micro_batch", "micro_batch_ms_per_item")
    return next(({key: w.get(key) for key in keys} for w in workers.values() if w.get("micro_batch")), None)


def _text(model: str, before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    lines = []
    for shape, size in after["micro_batch"].items():
        old = before["micro_batch"].get(shape) if before else None
        was = f" (was {old}, compile {before['compile']})" if before and old else ""
        lines.append(f"{model}: {size} items of {shape} at once, compile {after['compile']}{was}")
        times = (after["micro_batch_ms_per_item"] or {}).get(shape, {})
        lines += [
            f"  {int(n):4d} at once  {ms:9.3f} ms an item{'  <-' if int(n) == size else ''}" for n, ms in times.items()
        ]
    return "\n".join(lines)
