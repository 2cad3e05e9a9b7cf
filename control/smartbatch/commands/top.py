"""`smartbatch top`: what every model is doing now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smartbatch.commands.options import InferencePort, MetricsUrl, RunDir, server_asked
from smartbatch.front_door import VALUES, front_door
from smartbatch.installation import need

PICTURE_COLUMNS = 100


def top(
    once: Annotated[bool, typer.Option("--once", help="Look over one interval, print, end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; one line a look without --once.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds that the figures shown cover.")] = 5.0,
    picture: Annotated[Path | None, typer.Option(help="Also draw what --once prints, as a PNG.")] = None,
    url: MetricsUrl = None,
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
) -> None:
    """Watch throughput, batches, queue, latency, stages and errors of every model."""
    from rich.console import Console

    from smartbatch.watch.top import run_top

    with front_door("error", errors=VALUES, colour=None):
        console = Console(highlight=False)
        if picture is not None:
            if not once or as_json:
                raise ValueError("--picture draws the table of --once: give --once, and not --json")
            need("load", "--picture")
            console = Console(highlight=False, record=True, width=PICTURE_COLUMNS)
        endpoints = server_asked(run_dir, inference_port, metrics_url=url)
        run_top(
            endpoints.metrics_url,
            console,
            verify=endpoints.verify,
            once=once,
            as_json=as_json,
            interval_s=interval,
            window_s=window,
        )
        if picture is not None:
            from smartbatch_load.draw.terminal import draw_terminal

            draw_terminal(picture, console.export_text(), "smartbatch top")
