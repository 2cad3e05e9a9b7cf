"""`smartbatch capacity`: the command line of `run_capacity`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from smartbatch.front_door import EXIT_INTERRUPTED

from loadtest.endings import EXIT_FAILED_REQUESTS, load_test_door
from loadtest.options import (
    FORMATS_HELP,
    BatchSize,
    Body,
    Images,
    ManagementUrl,
    MaxDelayMs,
    MetricsUrl,
    Model,
    ModelStore,
    NumImages,
    Out,
    Precision,
    Seed,
    Url,
    Workers,
    default_out,
)


def capacity(
    slo_p95_ms: Annotated[float, typer.Option(help="Objective: p95 from the intended send time.")] = 250.0,
    duration: Annotated[str, typer.Option(help="Time at each rate.")] = "10s",
    warmup: Annotated[str, typer.Option(help="Load before the first rate.")] = "25s",
    start_rate: Annotated[
        float | None, typer.Option(help="First rate, requests/s. [default: a quarter of one at a time]")
    ] = None,
    max_rate: Annotated[float, typer.Option(help="Highest rate tried.")] = 100_000.0,
    tolerance: Annotated[float, typer.Option(help="Share the knee is pinned down to.")] = 0.05,
    poisson: Annotated[bool, typer.Option("--poisson", help="Random arrivals instead of even ones.")] = False,
    out: Out = None,
    url: Url = None,
    management_url: ManagementUrl = None,
    metrics_url: MetricsUrl = None,
    model: Model = "resnet18",
    model_store: ModelStore = None,
    body_format: Annotated[str, typer.Option("--format", help=FORMATS_HELP.replace("s, mixed evenly", ""))] = "jpeg",
    images: Images = None,
    body: Body = None,
    num_images: NumImages = 8,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    max_delay_ms: MaxDelayMs = None,
    workers: Workers = None,
    precision: Precision = None,
) -> None:
    """Find the highest rate of arrivals whose p95 meets the objective with less than 0.1 % errors."""
    console = Console(stderr=True, highlight=False)
    with load_test_door():
        from smartbatch.server.batching import resolve_batching

        from loadtest.capacity.run import CapacitySettings, run_capacity
        from loadtest.load.durations import parse_duration
        from loadtest.load.payloads import check_formats
        from loadtest.load.target import DEFAULT_STORE

        batching, notes = resolve_batching(batch_size, max_delay_ms, workers)
        for note in notes:
            console.print(note)
        settings = CapacitySettings(
            out=(out or default_out("capacity")).resolve(),
            slo_p95_ms=slo_p95_ms,
            duration_s=parse_duration(duration),
            warmup_s=parse_duration(warmup, zero=True),
            start_rate=start_rate,
            max_rate=max_rate,
            tolerance=tolerance,
            poisson=poisson,
            model=model,
            format="file" if body else check_formats([body_format])[0],
            images=images,
            bodies=tuple(body or ()),
            num_images=num_images,
            seed=seed,
            url=url,
            management_url=management_url,
            metrics_url=metrics_url,
            store=model_store or DEFAULT_STORE,
            batching=batching,
            precision=precision,
        )
        verdict = run_capacity(settings, console).verdict
        if verdict.message:
            console.print(f"WARNING: {verdict.message}", markup=False, soft_wrap=True)
        if verdict.knee is None:
            console.print(f"no rate tried kept p95 within {slo_p95_ms:g} ms")
        else:
            least = "at least " if not verdict.bounded else ""
            console.print(f"knee: {least}{verdict.knee:.3g} requests/s at p95 <= {slo_p95_ms:g} ms")
        console.print(f"picture: {settings.out / 'capacity.png'}", markup=False, soft_wrap=True)
        if verdict.ended == "interrupted":
            raise typer.Exit(EXIT_INTERRUPTED)
        if not verdict.confirmed or verdict.knee is None:
            raise typer.Exit(EXIT_FAILED_REQUESTS)
