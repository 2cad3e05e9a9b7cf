"""Options that more than one load test has, in the groups that a command takes, and how lists in them are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from smartbatch.archive.settings import DEFAULT_MODEL
from smartbatch_load.load.payloads import FORMATS, PayloadSettings

if TYPE_CHECKING:
    from smartbatch_load.load.target import ServerUnderTest

RESULTS = Path("loadtest") / "results"
FORMATS_LISTED = ", ".join(f"{name} ({row.remark})" if row.remark else name for name, row in FORMATS.items())

Out = Annotated[Path | None, typer.Option(help="Folder for the results. [default: loadtest/results/COMMAND-TIME]")]
Processes = Annotated[int | None, typer.Option(min=1, help="Generator processes. [default: a quarter of the cores]")]

# Which server: one that runs, or one that is started for the test.
Url = Annotated[str | None, typer.Option(help="A server that runs already (inference URL). [default: start one]")]
ManagementUrl = Annotated[str | None, typer.Option(help="Its management URL. [default: next port]")]
MetricsUrl = Annotated[str | None, typer.Option(help="Its metrics URL. [default: next port but one]")]
Model = Annotated[str, typer.Option(help="Name of the model, and of its archive in the model store.")]
ModelStore = Annotated[Path | None, typer.Option(help="Folder with archives. [default: the project's model_store]")]
BatchSize = Annotated[int | None, typer.Option(help="Of the server started. [default: $MAX_BATCH_SIZE or 32]")]
MaxDelayMs = Annotated[float | None, typer.Option(help="Of the server started. [default: $MAX_WAIT_TIME or 10]")]
Workers = Annotated[int | None, typer.Option(help="Of the server started. [default: as `serve`]")]
Precision = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16, of the server started. [default: the archive's]")
]

# What is sent.
Images = Annotated[Path | None, typer.Option(help="Folder of JPEG, PNG or WebP to send. [default: seeded ones]")]
Body = Annotated[
    list[Path] | None,
    typer.Option(help="File, or folder of files, to send in turn; may be repeated. [default: the archive's example]"),
]
NumImages = Annotated[int, typer.Option(min=1, help="Different pictures sent.")]
Seed = Annotated[int, typer.Option(help="Seed of the made pictures.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningOptions:
    """A server that runs already."""

    url: Url = None
    management_url: ManagementUrl = None
    metrics_url: MetricsUrl = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """The model that is asked, and where a server that is started for the test finds it."""

    model: Model = DEFAULT_MODEL
    model_store: ModelStore = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions:
    """How a server that is started for the test serves."""

    batch_size: BatchSize = None
    max_delay_ms: MaxDelayMs = None
    workers: Workers = None
    precision: Precision = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadOptions:
    """What is sent, but for its formats."""

    images: Images = None
    body: Body = None
    num_images: NumImages = 8
    seed: Seed = 0


def server_under_test(
    console: Console, model: ModelOptions, running: RunningOptions, serving: ServingOptions
) -> ServerUnderTest:
    """The server that the options name or describe; what had to be rounded is printed.

    Raises:
        ValueError: a value out of its bounds.
    """
    from smartbatch.server.batching import resolve_batching
    from smartbatch_load.load.target import DEFAULT_STORE, ServerUnderTest

    batching, notes = resolve_batching(serving.batch_size, serving.max_delay_ms, serving.workers)
    for note in notes:
        console.print(note)
    return ServerUnderTest(
        model=model.model,
        store=model.model_store or DEFAULT_STORE,
        url=running.url,
        management_url=running.management_url,
        metrics_url=running.metrics_url,
        batching=batching,
        precision=serving.precision,
    )


def payload_settings(payload: PayloadOptions, formats: str | None, default: str = "jpeg") -> PayloadSettings:
    """What the options have sent.

    Args:
        formats: commas between; None: nobody asked for any.
        default: what is sent then, if the model takes pictures.

    Raises:
        ValueError: unknown or no format.
    """
    return PayloadSettings(
        formats=tuple(split(default if formats is None else formats)),
        images=payload.images,
        bodies=tuple(payload.body or ()),
        num_images=payload.num_images,
        seed=payload.seed,
        is_default=formats is None and payload.images is None and not payload.body,
    )


def results_folder(out: Path | None, command: str) -> Path:
    """Where the results go; without --out a folder of its own for every run."""
    return (out or RESULTS / f"{command}-{strftime('%Y%m%d-%H%M%S')}").resolve()


def split(text: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


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
