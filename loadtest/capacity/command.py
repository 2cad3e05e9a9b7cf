"""`smartbatch capacity`: the command line of `run_capacity`."""

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
    RunningOptions,
    ServingOptions,
    payload_settings,
    results_folder,
    server_under_test,
)


@composed
def capacity(
    *,
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
    running: RunningOptions,
    asked: ModelOptions,
    body_format: Annotated[
        str | None, typer.Option("--format", help=f"Body format: {FORMATS_LISTED}.", show_default="jpeg")
    ] = None,
    payload: PayloadOptions,
    serving: ServingOptions,
) -> None:
    """Find the highest rate of arrivals whose p95 meets the objective with less than 0.1 % errors."""
    with load_test_door() as console:
        from smartbatch_load.capacity.run import CapacitySettings, run_capacity
        from smartbatch_load.load.durations import parse_duration

        settings = CapacitySettings(
            out=results_folder(out, "capacity"),
            server=server_under_test(console, asked, running, serving),
            payload=payload_settings(payload, body_format),
            slo_p95_ms=slo_p95_ms,
            duration_s=parse_duration(duration),
            warmup_s=parse_duration(warmup, zero=True),
            start_rate=start_rate,
            max_rate=max_rate,
            tolerance=tolerance,
            poisson=poisson,
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
        failed = not verdict.confirmed or verdict.knee is None
        check_ending(interrupted=verdict.ended == "interrupted", failed=failed)
