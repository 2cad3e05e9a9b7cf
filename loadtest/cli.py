"""The commands `smartbatch stress | study | capacity | top`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import strftime
from typing import Annotated

import typer
from rich.console import Console
from smartbatch.errors import SmartBatchError, UsageError

from loadtest.load.interrupt import Interrupted

EXIT_FAILED_REQUESTS = 1
EXIT_INTERRUPTED = 130
PRECISIONS = ("fp32", "bf16", "fp16")
PICTURE_COLUMNS = 100
RESULTS = Path("loadtest") / "results"

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Load tests of a SmartBatch server.", rich_markup_mode=None
)

OutOption = Annotated[
    Path | None, typer.Option(help="Folder for the results. [default: loadtest/results/COMMAND-TIME]")
]
UrlOption = Annotated[str | None, typer.Option(help="A server that runs already (inference URL). [default: start one]")]
ManagementOption = Annotated[str | None, typer.Option(help="Its management URL. [default: next port]")]
MetricsOption = Annotated[str | None, typer.Option(help="Its metrics URL. [default: next port but one]")]
ModelOption = Annotated[str, typer.Option(help="Name of the model, and of its archive in the model store.")]
StoreOption = Annotated[Path | None, typer.Option(help="Folder with archives. [default: the project's model_store]")]
ImagesOption = Annotated[Path | None, typer.Option(help="Folder of JPEG, PNG or WebP to send. [default: seeded ones]")]
BodyOption = Annotated[
    list[Path] | None, typer.Option(help="File to send as it is instead of pictures; may be repeated.")
]
NumImagesOption = Annotated[int, typer.Option(min=1, help="Different pictures sent.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the made pictures.")]
BatchSizeOption = Annotated[int | None, typer.Option(help="Of the server started. [default: $MAX_BATCH_SIZE or 32]")]
DelayOption = Annotated[float | None, typer.Option(help="Of the server started. [default: $MAX_WAIT_TIME or 10]")]
WorkersOption = Annotated[int | None, typer.Option(help="Of the server started. [default: as `serve`]")]
PrecisionOption = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16, of the server started. [default: the archive's]")
]
ProcessesOption = Annotated[
    int | None, typer.Option(min=1, help="Generator processes. [default: a quarter of the cores]")
]
FORMATS_HELP = "Body formats, mixed evenly: json, jpeg, npy (uint8), npy-float, msgpack."


@app.command()
def stress(
    duration: Annotated[str, typer.Option(help='How long, such as "30s" or "2m".')] = "30s",
    users: Annotated[int, typer.Option(min=1, help="Users at the last step.")] = 200,
    steps: Annotated[str, typer.Option(help='Even steps ("5"), or users of each ("10,50,200").')] = "5",
    out: OutOption = None,
    url: UrlOption = None,
    management_url: ManagementOption = None,
    metrics_url: MetricsOption = None,
    model: ModelOption = "resnet18",
    model_store: StoreOption = None,
    formats: Annotated[str, typer.Option(help=FORMATS_HELP)] = "jpeg",
    images: ImagesOption = None,
    body: BodyOption = None,
    num_images: NumImagesOption = 8,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    max_delay_ms: DelayOption = None,
    workers: WorkersOption = None,
    precision: PrecisionOption = None,
    processes: ProcessesOption = None,
) -> None:
    """Rise from 0 to many users and plot throughput, latency, batch size and queue depth."""
    console = Console(stderr=True, highlight=False)
    with errors_as_exit_codes(console):
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


@app.command()
def study(
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes to compare.")] = "1,8,32,64",
    delays_ms: Annotated[str, typer.Option(help="Max batch delays to compare.")] = "10",
    workers: Annotated[str | None, typer.Option(help="Numbers of workers to compare. [default: as `serve`]")] = None,
    precisions: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16 to compare. [default: the archive's]")
    ] = None,
    formats: Annotated[str, typer.Option(help=FORMATS_HELP.replace(", mixed evenly", " to compare"))] = "npy",
    duration: Annotated[str, typer.Option(help="Measured time of each point in each round.")] = "10s",
    rounds: Annotated[int, typer.Option(min=1, help="Times every point is measured, in turn.")] = 3,
    users: Annotated[int, typer.Option(min=1, help="Users at once.")] = 64,
    warmup: Annotated[str, typer.Option(help="Load before each measured time.")] = "3s",
    jvm_warmup: Annotated[str, typer.Option(help="Load on a new server before all else.")] = "25s",
    out: OutOption = None,
    model: ModelOption = "resnet18",
    model_store: StoreOption = None,
    images: ImagesOption = None,
    body: BodyOption = None,
    num_images: NumImagesOption = 8,
    seed: SeedOption = 0,
    processes: ProcessesOption = None,
) -> None:
    """Compare batch sizes, and whatever else is listed, in interleaved rounds."""
    console = Console(stderr=True, highlight=False)
    with errors_as_exit_codes(console):
        from smartbatch.server.batching import default_workers

        from loadtest.load.closed_loop import Ending
        from loadtest.load.durations import parse_duration
        from loadtest.load.payloads import check_formats
        from loadtest.load.target import DEFAULT_STORE
        from loadtest.study.grid import DEFAULT_PRECISION, Grid
        from loadtest.study.run import StudySettings, run_study

        grid = Grid(
            batch_sizes=numbers("batch-sizes", batch_sizes),
            delays_ms=numbers("delays-ms", delays_ms),
            workers=numbers("workers", workers) if workers else [default_workers()],
            precisions=check_precisions(split(precisions)) if precisions else [DEFAULT_PRECISION],
            formats=("file",) if body else check_formats(split(formats)),
        )
        settings = StudySettings(
            out=(out or default_out("study")).resolve(),
            grid=grid,
            duration_s=parse_duration(duration),
            warmup_s=parse_duration(warmup, zero=True),
            jvm_warmup_s=parse_duration(jvm_warmup, zero=True),
            rounds=rounds,
            users=users,
            model=model,
            store=model_store or DEFAULT_STORE,
            images=images,
            bodies=tuple(body or ()),
            num_images=num_images,
            seed=seed,
            processes=processes,
        )
        outcome = run_study(settings, console)
        if outcome.message:
            console.print(f"WARNING: {outcome.message}", markup=False, soft_wrap=True)
        console.print((settings.out / "study.md").read_text(encoding="utf-8"), markup=False, soft_wrap=True)
        console.print(f"picture: {settings.out / 'study.png'}", markup=False, soft_wrap=True)
        if outcome.ending is Ending.INTERRUPTED:
            raise typer.Exit(EXIT_INTERRUPTED)
        if outcome.ending is not Ending.COMPLETED or any(row.failures for row in outcome.rows):
            raise typer.Exit(EXIT_FAILED_REQUESTS)


@app.command()
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
    out: OutOption = None,
    url: UrlOption = None,
    management_url: ManagementOption = None,
    metrics_url: MetricsOption = None,
    model: ModelOption = "resnet18",
    model_store: StoreOption = None,
    body_format: Annotated[str, typer.Option("--format", help=FORMATS_HELP.replace("s, mixed evenly", ""))] = "jpeg",
    images: ImagesOption = None,
    body: BodyOption = None,
    num_images: NumImagesOption = 8,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    max_delay_ms: DelayOption = None,
    workers: WorkersOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Find the highest rate of arrivals whose p95 meets the objective with less than 0.1 % errors."""
    console = Console(stderr=True, highlight=False)
    with errors_as_exit_codes(console):
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


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Look over one interval, print, end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; one line a look without --once.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds that the figures shown cover.")] = 5.0,
    picture: Annotated[Path | None, typer.Option(help="Also draw what --once prints, as a PNG.")] = None,
    url: Annotated[str | None, typer.Option(help="Metrics URL. [default: the server started here]")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder of the server.")] = None,
    inference_port: Annotated[int | None, typer.Option(help="Inference port of a server started here.")] = None,
) -> None:
    """Watch throughput, batches, queue, latency, stages and errors of every model."""
    console = Console(highlight=False)
    with errors_as_exit_codes(Console(stderr=True, highlight=False)):
        from smartbatch.remote.endpoints import find_endpoints
        from smartbatch.remote.top import run_top

        if picture is not None:
            if not once or as_json:
                raise ValueError("--picture draws the table of --once: give --once, and not --json")
            console = Console(highlight=False, record=True, width=PICTURE_COLUMNS)
        endpoints = find_endpoints(run_dir, inference_port, metrics_url=url)
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
            from loadtest.draw.terminal import draw_terminal

            draw_terminal(picture, console.export_text(), "smartbatch top")


@contextmanager
def errors_as_exit_codes(console: Console) -> Iterator[None]:
    """One line for what a user can mend, and the exit code that belongs to it."""
    try:
        yield
    except Interrupted as signal:
        console.print(f"interrupted by {signal} before anything was measured", markup=False)
        raise typer.Exit(EXIT_INTERRUPTED) from signal
    except SmartBatchError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    except ValueError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(UsageError.exit_code) from error


def default_out(command: str) -> Path:
    """A folder of its own for every run."""
    return RESULTS / f"{command}-{strftime('%Y%m%d-%H%M%S')}"


def split(text: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_precisions(names: list[str]) -> list[str]:
    """Refuse a precision no worker knows.

    Raises:
        ValueError: naming it.
    """
    for name in names:
        if name not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    return names


def numbers(option: str, text: str) -> list[int]:
    """The numbers of a comma-separated option.

    Raises:
        ValueError: a part is no whole number of at least 1.
    """
    try:
        found = [int(part) for part in split(text)]
    except ValueError as error:
        raise ValueError(f'--{option} must look like "1,8,32", got {text!r}') from error
    if not found or min(found) < 1:
        raise ValueError(f"--{option} must hold whole numbers of at least 1, got {text!r}")
    return found


if __name__ == "__main__":
    app()
