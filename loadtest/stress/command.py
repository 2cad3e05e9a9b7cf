"""`smartbatch stress`: the command line of `run_stress`."""

from __future__ import annotations

from typing import Annotated

import typer
from smartbatch.option_groups import composed
from smartbatch_load.endings import check_ending, load_test_door
from smartbatch_load.options import (
    FORMATS_LISTED,
    ModelOptions,
    Out,
    PayloadOptions,
    Processes,
    RunningOptions,
    ServingOptions,
    payload_settings,
    results_folder,
    server_under_test,
)


@composed
def stress(
    *,
    duration: Annotated[str, typer.Option(help='How long, such as "30s" or "2m".')] = "30s",
    users: Annotated[int, typer.Option(min=1, help="Users at the last step.")] = 200,
    steps: Annotated[str, typer.Option(help='Even steps ("5"), or users of each ("10,50,200").')] = "5",
    out: Out = None,
    running: RunningOptions,
    asked: ModelOptions,
    formats: Annotated[
        str | None, typer.Option(help=f"Body formats, mixed evenly: {FORMATS_LISTED}.", show_default="jpeg")
    ] = None,
    payload: PayloadOptions,
    serving: ServingOptions,
    processes: Processes = None,
) -> None:
    """Rise from 0 to many users and plot throughput, latency, batch size and queue depth."""
    with load_test_door() as console:
        from smartbatch_load.load.closed_loop import Ending
        from smartbatch_load.load.durations import parse_duration
        from smartbatch_load.load.shapes import parse_steps
        from smartbatch_load.stress.run import StressSettings, run_stress

        settings = StressSettings(
            out=results_folder(out, "stress"),
            server=server_under_test(console, asked, running, serving),
            payload=payload_settings(payload, formats),
            steps=tuple(parse_steps(steps, users, parse_duration(duration))),
            processes=processes,
        )
        outcome = run_stress(settings, console)
        for line in outcome.lines:
            console.print(line, markup=False, soft_wrap=True)
        ending = outcome.run.ending
        failed = ending is not Ending.COMPLETED or outcome.num_failures > 0
        check_ending(interrupted=ending is Ending.INTERRUPTED, failed=failed)
