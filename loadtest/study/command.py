"""`smartbatch study`: the command line of `run_study`."""

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
    numbers,
    payload_settings,
    results_folder,
    split,
)


@composed
def study(
    *,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes to compare.")] = "1,8,32,64",
    delays_ms: Annotated[str, typer.Option(help="Max batch delays to compare.")] = "10",
    workers: Annotated[str | None, typer.Option(help="Numbers of workers to compare. [default: as `serve`]")] = None,
    precisions: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16 to compare. [default: the archive's]")
    ] = None,
    formats: Annotated[
        str | None, typer.Option(help=f"Body formats to compare: {FORMATS_LISTED}.", show_default="npy")
    ] = None,
    duration: Annotated[str, typer.Option(help="Measured time of each point in each round.")] = "10s",
    rounds: Annotated[int, typer.Option(min=1, help="Times every point is measured, in turn.")] = 3,
    users: Annotated[int, typer.Option(min=1, help="Users at once.")] = 64,
    warmup: Annotated[str, typer.Option(help="Load before each measured time.")] = "3s",
    jvm_warmup: Annotated[str, typer.Option(help="Load on a new server before all else.")] = "25s",
    out: Out = None,
    asked: ModelOptions,
    payload: PayloadOptions,
    processes: Processes = None,
) -> None:
    """Compare batch sizes, and whatever else is listed, in interleaved rounds."""
    with load_test_door() as console:
        from smartbatch.server.batching import default_workers
        from smartbatch_load.load.choice import payload_for_archive
        from smartbatch_load.load.closed_loop import Ending
        from smartbatch_load.load.durations import parse_duration
        from smartbatch_load.load.target import DEFAULT_STORE, ServerUnderTest
        from smartbatch_load.study.grid import DEFAULT_PRECISION, Grid
        from smartbatch_load.study.run import StudySettings, run_study

        folder, store = results_folder(out, "study"), asked.model_store or DEFAULT_STORE
        sent = payload_settings(payload, formats, default="npy")
        sent = payload_for_archive(sent, store, asked.model, folder, console.print)
        grid = Grid(
            batch_sizes=numbers("batch-sizes", batch_sizes),
            delays_ms=numbers("delays-ms", delays_ms),
            workers=numbers("workers", workers) if workers else [default_workers()],
            precisions=split(precisions) if precisions else [DEFAULT_PRECISION],
            formats=sent.sources,
        )
        settings = StudySettings(
            out=folder,
            server=ServerUnderTest(model=asked.model, store=store, batching=grid.warm_up().batching),
            payload=sent,
            grid=grid,
            duration_s=parse_duration(duration),
            warmup_s=parse_duration(warmup, zero=True),
            jvm_warmup_s=parse_duration(jvm_warmup, zero=True),
            rounds=rounds,
            users=users,
            processes=processes,
        )
        outcome = run_study(settings, console)
        if outcome.message:
            console.print(f"WARNING: {outcome.message}", markup=False, soft_wrap=True)
        console.print((settings.out / "study.md").read_text(encoding="utf-8"), markup=False, soft_wrap=True)
        console.print(f"picture: {settings.out / 'study.png'}", markup=False, soft_wrap=True)
        failed = outcome.ending is not Ending.COMPLETED or any(row.failures for row in outcome.rows)
        check_ending(interrupted=outcome.ending is Ending.INTERRUPTED, failed=failed)
