"""`smartbatch predict`: one file to a model, its answer to stdout; or many, their answers to a file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import OUTPUTS
from smartbatch_worker.contract.headers import OUTPUT

from smartbatch.commands.options import AsJson, InferencePort, RunDir, server_asked
from smartbatch.commands.output import answer, answer_rows, say
from smartbatch.errors import UsageError
from smartbatch.option_groups import composed

if TYPE_CHECKING:
    from smartbatch.remote.endpoints import Endpoints

_GLOB = set("*?[")


@dataclass(frozen=True, kw_only=True, slots=True)
class Many:
    """What only many inputs have."""

    out: Annotated[
        Path | None,
        typer.Option(help="Many inputs: where their answers go, .jsonl, .csv or .parquet. Run it again to go on."),
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again for rows that failed.")] = False
    column: Annotated[
        list[str] | None, typer.Option(help="Of a .parquet: the inputs' column; several: named inputs.")
    ] = None
    paths: Annotated[bool, typer.Option("--paths", help="That column's texts are paths of files.")] = False
    concurrency: Annotated[
        int | None,
        typer.Option(help="Requests that are out at once.", min=1, max=4096, show_default="as the server's batches"),
    ] = None


@composed
def predict(
    *,
    file: Annotated[
        str,
        typer.Argument(
            help="Image, .npy, .json, ... by extension; - reads stdin. With --out: also a folder, a pattern, a "
            ".parquet, or lines of JSON or paths (.jsonl, -)."
        ),
    ],
    model: Annotated[str, typer.Option(help="Model to ask.")] = "resnet18",
    url: Annotated[
        str | None,
        typer.Option("--url", help="Server's inference address; several with commas between.", show_default=False),
    ] = None,
    deadline: Annotated[float, typer.Option(help="Seconds until each answer, retries included.")] = 60.0,
    content_type: Annotated[str | None, typer.Option(help="Overrides the extension's.")] = None,
    output: Annotated[str | None, typer.Option(help=f"{', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}.")] = None,
    many: Many,
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    as_json: AsJson = False,
) -> None:
    """Send a file to a model and print the answer; or many, each answered once, with --out."""
    headers: dict[str, str] = {}
    if content_type is not None:
        headers["Content-Type"] = content_type
    if output is not None:
        headers[OUTPUT] = output
    urls = url.split(",") if url else []
    one = None if many.out is not None else _one(file, many)
    endpoints = server_asked(run_dir, inference_port, inference_url=urls[0] if urls else None)
    urls = urls or [endpoints.inference_url]
    if one is not None:
        body, kind = one
        _predict_one(body, {"Content-Type": kind, **headers}, endpoints, urls, model, deadline, as_json)
    else:
        _predict_many(file, many, headers, endpoints, urls, model, deadline, as_json)


def _one(file: str, many: Many) -> tuple[bytes, str]:
    """The one body, and what it is."""
    from smartbatch.client.bodies import encode_body

    if many.retry_failed or many.column or many.paths or many.concurrency:
        raise UsageError("--retry-failed, --column, --paths and --concurrency are for many inputs: add --out")
    if file == "-":
        return sys.stdin.buffer.read(), media_types.ANY
    path = Path(file)
    if not path.is_file():
        hint = "; for many inputs add --out FILE.jsonl" if path.is_dir() or _GLOB & set(file) else ""
        raise UsageError(f"FILE must be a file or -, got {file!r}{hint}")
    return encode_body(path)


def _predict_one(
    body: bytes,
    headers: dict[str, str],
    endpoints: Endpoints,
    urls: list[str],
    model: str,
    deadline_s: float,
    as_json: bool,
) -> None:
    from smartbatch.client import Client

    with Client(urls, model, endpoints.inference_token, verify=endpoints.verify) as client:
        reply = client.predict(body, deadline_s=deadline_s, headers=headers)
    if as_json:
        sizes = {"batch_size": reply.batch_size, "forward_size": reply.forward_size}
        fields = {**sizes, "attempts": reply.attempts, "seconds": reply.seconds}
        answer({"answer": reply.json(), **fields}, as_json, "")
    else:
        sys.stdout.buffer.write(reply.content.rstrip(b"\n") + b"\n")


def _predict_many(
    file: str,
    many: Many,
    headers: dict[str, str],
    endpoints: Endpoints,
    urls: list[str],
    model: str,
    deadline_s: float,
    as_json: bool,
) -> None:
    from smartbatch.bulk.job import BulkSettings, concurrency_for, predict_all

    assert many.out is not None
    if deadline_s <= 0:
        raise UsageError(f"--deadline must be above 0 s, got {deadline_s:g} s")
    settings = BulkSettings(
        source=file,
        out=many.out,
        model=model,
        urls=urls,
        token=endpoints.inference_token,
        verify=endpoints.verify,
        columns=many.column or [],
        paths=many.paths,
        headers=headers,
        concurrency=many.concurrency or concurrency_for(endpoints, model),
        deadline_s=deadline_s,
        retry_failed=many.retry_failed,
    )
    summary = predict_all(settings, say)
    answer_rows(summary, as_json, f"{summary.rows} rows", summary.out)
