"""Options that more than one load test has, and how lists in them are read."""

from __future__ import annotations

from pathlib import Path
from time import strftime
from typing import Annotated

import typer

PRECISIONS = ("fp32", "bf16", "fp16")
RESULTS = Path("loadtest") / "results"
FORMATS_HELP = "Body formats, mixed evenly: json, jpeg, npy (uint8), npy-float, msgpack."

Out = Annotated[Path | None, typer.Option(help="Folder for the results. [default: loadtest/results/COMMAND-TIME]")]

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

# What is sent, and by whom.
Images = Annotated[Path | None, typer.Option(help="Folder of JPEG, PNG or WebP to send. [default: seeded ones]")]
Body = Annotated[list[Path] | None, typer.Option(help="File to send as it is instead of pictures; may be repeated.")]
NumImages = Annotated[int, typer.Option(min=1, help="Different pictures sent.")]
Seed = Annotated[int, typer.Option(help="Seed of the made pictures.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Generator processes. [default: a quarter of the cores]")]


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
