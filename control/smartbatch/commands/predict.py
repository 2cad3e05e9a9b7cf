"""`smartbatch predict`: one file to a model, its answer to stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import OUTPUTS
from smartbatch_worker.contract.headers import OUTPUT

from smartbatch.commands.options import AsJson, InferencePort, InferenceUrl, RunDir, server_asked
from smartbatch.commands.output import answer
from smartbatch.errors import UsageError


def predict(
    file: Annotated[str, typer.Argument(help="Image, .npy, .json, ... by extension; - reads stdin.")],
    model: Annotated[str, typer.Option(help="Model to ask.")] = "resnet18",
    url: InferenceUrl = None,
    deadline: Annotated[float, typer.Option(help="Seconds until the answer, retries included.")] = 60.0,
    content_type: Annotated[str | None, typer.Option(help="Overrides the extension's.")] = None,
    output: Annotated[str | None, typer.Option(help=f"{', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}.")] = None,
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    as_json: AsJson = False,
) -> None:
    """Send one file to a model and print the answer. With --json: the answer with batch size, attempts and seconds."""
    from smartbatch.client import Client, encode_body

    if file == "-":
        body, kind = sys.stdin.buffer.read(), media_types.ANY
    else:
        path = Path(file)
        if not path.is_file():
            raise UsageError(f"FILE must be a file or -, got {file!r}")
        body, kind = encode_body(path)
    headers = {"Content-Type": content_type or kind}
    if output is not None:
        headers[OUTPUT] = output
    endpoints = server_asked(run_dir, inference_port, inference_url=url)
    with Client(endpoints.inference_url, model, endpoints.inference_token(), verify=endpoints.verify) as client:
        reply = client.predict(body, deadline_s=deadline, headers=headers)
    if as_json:
        sizes = {"batch_size": reply.batch_size, "forward_size": reply.forward_size}
        fields = {**sizes, "attempts": reply.attempts, "seconds": reply.seconds}
        answer({"answer": reply.json(), **fields}, as_json, "")
    else:
        sys.stdout.buffer.write(reply.content.rstrip(b"\n") + b"\n")
