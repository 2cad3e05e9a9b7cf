"""`smartbatch score`: many inputs through an archive's own handler on a Ray cluster, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from smartbatch_worker.contract.config import OUTPUTS
from smartbatch_worker.contract.headers import OUTPUT

from smartbatch.commands.options import AsJson
from smartbatch.commands.output import answer_rows, say
from smartbatch.option_groups import composed


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What the rows are, and what becomes of them."""

    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Of Parquet: the inputs' column; several: named inputs. Of WebDataset: the end of the file in each "
            "sample that is the input."
        ),
    ] = None
    paths: Annotated[bool, typer.Option("--paths", help="Of Parquet: that column's texts are paths of files.")] = False
    output: Annotated[str | None, typer.Option(help=f"{', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}.")] = None
    part_rows: Annotated[
        int, typer.Option(help="Rows of a file of the output, as near as the input's files allow.", min=1)
    ] = 1024
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do parts with failed rows again.")] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """Where it is done."""

    address: Annotated[
        str | None, typer.Option(help="A Ray cluster's; or RAY_ADDRESS.", show_default="this machine alone")
    ] = None
    actors: Annotated[
        int | None, typer.Option(help="Copies of the model.", min=1, show_default="one per GPU, or per core")
    ] = None
    cpus: Annotated[
        int | None, typer.Option(help="Cores of each.", min=1, show_default="1, or a GPU's share of them")
    ] = None
    batch_size: Annotated[int, typer.Option(help="Rows handed to the handler together.", min=1, max=4096)] = 64


@composed
def score(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Folder or file, or its address (s3://…): files by extension, Parquet, or WebDataset's shards (.tar).",
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder for the answers, or its address. Run it again to go on.")],
    model: Annotated[Path, typer.Option(help="Archive, as `smartbatch archive` makes it.")],
    rows: Rows,
    machines: Machines,
    as_json: AsJson = False,
) -> None:
    """Answer many inputs by an archive's handler, on this machine or a Ray cluster, without a server."""
    from smartbatch.scoring.job import ScoreSettings, score_all

    settings = ScoreSettings(
        source=source,
        out=out,
        archive=model,
        columns=rows.column or (),
        paths=rows.paths,
        headers={} if rows.output is None else {OUTPUT: rows.output},
        batch_size=machines.batch_size,
        part_rows=rows.part_rows,
        address=machines.address,
        actors=machines.actors,
        cpus=machines.cpus,
        retry_failed=rows.retry_failed,
    )
    summary = score_all(settings, say)
    rows_told = f"{summary.rows} rows in {summary.parts} parts"
    answer_rows(summary, as_json, rows_told, f"{summary.out}/_errors.jsonl")
