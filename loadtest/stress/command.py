"""`smartbatch stress`: the command line of `run_stress`."""

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
    Processes,
    Seed,
    Url,
    Workers,
    default_out,
    split,
)


def stress(
    duration: Annotated[str, typer.Option(help='How long, such as "30s" or "2m".')] = "30s",
    users: Annotated[int, typer.Option(min=1, help="Users at the last step.")] = 200,
    steps: Annotated[str, typer.Option(help='Even steps ("5"), or users of each ("10,50,200").')] = "5",
    out: Out = None,
    url: Url = None,
    management_url: ManagementUrl = None,
    metrics_url: MetricsUrl = None,
    model: Model = "resnet18",
    model_store: ModelStore = None,
    formats: Annotated[str, typer.Option(help=FORMATS_HELP)] = "jpeg",
    images: Images = None,
    body: Body = None,
    num_images: NumImages = 8,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    max_delay_ms: MaxDelayMs = None,
    workers: Workers = None,
    precision: Precision = None,
    processes: Processes = None,
) -> None:
    """Rise from 0 to many users and plot throughput, latency, batch size and queue depth."""
    console = Console(stderr=True, highlight=False)
    with load_test_door():
        from smartbatch.server.batching import resolve_batching

        from loadtest.load.closed_loop import Ending
        from loadtest.load.durations import parse_duration
        from loadtest.load.payloads import check_formats
        from loadtest.load.shapes import parse_steps
        from loadtest.load.target import DEFAULT_STORE
        from loadtest.stress.run import StressSettings, run_stress

        batching, notes = resolve_batching(batch_size, max_delay_ms, workers)
        for note in notes:
            console.print(note)
        settings = StressSettings(
            out=(out or default_out("stress")).resolve(),
            steps=tuple(parse_steps(steps, users, parse_duration(duration))),
            model=model,
            formats=check_formats(split(formats)),
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
            processes=processes,
        )
        outcome = run_stress(settings, console)
        for line in outcome.lines:
            console.print(line, markup=False, soft_wrap=True)
        if outcome.run.ending is Ending.INTERRUPTED:
            raise typer.Exit(EXIT_INTERRUPTED)
        if outcome.run.ending is not Ending.COMPLETED or outcome.num_failures:
            raise typer.Exit(EXIT_FAILED_REQUESTS)
