"""`smartbatch tune`: the settings that a running model is served best with; or its forward, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from smartbatch.front_door import EXIT_INTERRUPTED
from smartbatch.installation import need
from smartbatch.option_groups import composed

if TYPE_CHECKING:
    from smartbatch.retune.targets import RetuneTarget

NUM_CLIENTS = 32
MOST_S = 60.0


@composed
def tune(
    *,
    model: ModelName,
    slo_p95_ms: Annotated[
        float | None, typer.Option(help="Objective for p95.", show_default="none: the rate alone", min=0.1)
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(help="Of the load: as many wait for an answer each.", show_default="32", min=1, max=512),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Instead: as many requests/s come, answered or not.", min=0.1, max=500)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Instead: they come at the moments of this file, in seconds, one a line.")
    ] = None,
    body: Annotated[
        Path | None, typer.Option(help="What they send.", show_default="the archive's example, or made up")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="That a setting is measured for.", show_default="8; of --trace once, at most 60", min=1, max=120
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the handler's configuration, what may change: micro_batch, compile, precision; several times.",
            show_default="micro_batch",
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Leave the best setting behind, not the present one.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for tuning.json and tuning.png.")] = None,
    forward: Annotated[
        bool, typer.Option("--forward", help="Measure the forward again instead: micro-batch and convolutions.")
    ] = False,
    canary: Canary = None,
    timeout: ReadyTimeout = 120.0,
    drain_timeout: DrainTimeout = 120.0,
    server: ChangedServer,
    url: CanaryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Find batch size, delay and workers for an objective: by a model of the server, and at most six trials on it.

    For clients that wait for their answers it is the highest rate within the objective; for a --rate or a --trace,
    whose requests come whether or not others are answered, the lowest p95.

    Where the archive fixes `micro_batch`, one trial lets it be measured; with --allow compile or --allow precision also
    what makes the forward, and bf16, by which answers differ in the third digit.

    The trials are retunes under a load of its own, beside whatever else is asked, and no request is lost. Afterwards
    the present setting is back, or with --apply the best one is there.

    With --forward: measure the forward again, which is done once a week when a model is loaded; for a machine that was
    busy that first time, or has other neighbours since.
    """
    from smartbatch.retune.targets import retune_target

    target = retune_target(server.endpoints(), server.model_store, url, canary, timeout)
    if target.canary.inference_url is None:
        raise UsageError("measuring needs requests: name the server's inference address by --url")
    if sum(given is not None for given in (clients, rate, trace)) > 1:
        raise UsageError("--clients, --rate and --trace are three kinds of load: give one of them")
    if forward:
        if apply or any(given is not None for given in (slo_p95_ms, clients, rate, trace, body, seconds, out, allow)):
            raise UsageError("--forward measures the forward alone: leave out all that is of trials or their load")
        _tune_forward(target, model, timeout, drain_timeout, as_json)
        return
    from smartbatch.doctor.probe import OpenProbe, Probe, probe_body
    from smartbatch.tuning import report
    from smartbatch.tuning.arrivals import by_chance, from_trace
    from smartbatch.tuning.run import MAY_CHANGE, SECONDS, TuneSettings
    from smartbatch.tuning.run import tune as run
    from smartbatch.tuning.search import MOST_TRIALS, Objective

    if unknown := set(allow or ()) - MAY_CHANGE.keys():
        raise UsageError(f"--allow takes {', '.join(MAY_CHANGE)}; got {', '.join(sorted(unknown))}")
    with target.endpoints.management() as client:
        described = client.describe(model, customized=True).customized
    content = probe_body(described, body)
    arrivals = from_trace(trace) if trace is not None else by_chance(rate) if rate is not None else None
    probe = (
        Probe(target.endpoints, model, content, clients or NUM_CLIENTS)
        if arrivals is None
        else OpenProbe(target.endpoints, model, content, arrivals)
    )
    once_s = 0.0 if trace is None or arrivals is None else min(MOST_S, arrivals.times_s[-1])
    settings = TuneSettings(
        model=model,
        objective=Objective(
            slo_p95_s=None if slo_p95_ms is None else slo_p95_ms / 1000,
            rate=None if arrivals is None else arrivals.requests_per_s,
        ),
        seconds=seconds or max(SECONDS, once_s),
        allowed=frozenset(allow or ("micro_batch",)),
        apply=apply,
        ready_timeout_s=timeout,
        drain_timeout_s=drain_timeout,
    )
    say(f"{probe.load} for {model}; at most {MOST_TRIALS} settings are tried, {settings.seconds:.0f} s each")
    found = run(target, settings, probe, say)
    fields = report.as_dict(found)
    if out is not None:
        report.write(fields, out)
        _draw(out / report.PICTURE, fields)
    answer(fields, as_json, report.text(found))
    if found.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not fields["meets_objective"]:
        raise typer.Exit(1)


def _draw(path: Path, fields: dict[str, Any]) -> None:
    """The picture, where what draws it is installed."""
    try:
        need("load", "tuning.png")
    except UsageError as error:
        say(f"no picture: {error}")
        return
    from smartbatch_load.draw.tuning import draw_tuning

    draw_tuning(path, fields)


def _tune_forward(target: RetuneTarget, model: str, timeout: float, drain_timeout: float, as_json: bool) -> None:
    """New workers measure while the old ones serve, as `smartbatch retune` does it."""
    from smartbatch.remote.status import describe_workers
    from smartbatch.retune.run import RetuneSettings, retune

    settings = RetuneSettings(model=model, measure_again=True, ready_timeout_s=timeout, drain_timeout_s=drain_timeout)
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
