"""`smartbatch doctor`: what is wrong with a running server, what it costs, and what to type."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from smartbatch.commands.options import AsJson, InferencePort, ManagementUrl, RunDir, server_asked
from smartbatch.commands.output import answer, say
from smartbatch.errors import UsageError


def doctor(
    model: Annotated[str | None, typer.Argument(help="A registered model.", show_default="all of them")] = None,
    seconds: Annotated[float, typer.Option(help="How long to watch.", min=1, max=600)] = 10.0,
    probe: Annotated[bool, typer.Option("--probe", help="Send requests meanwhile, where nobody else does.")] = False,
    clients: Annotated[int, typer.Option(help="Of --probe: as many wait for an answer each.", min=1, max=256)] = 16,
    body: Annotated[
        Path | None, typer.Option(help="Of --probe: what to send.", show_default="the archive's example, or made up")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Server's inference address, for --probe.", show_default=False)
    ] = None,
    management_url: ManagementUrl = None,
    metrics_url: Annotated[
        str | None, typer.Option("--metrics-url", help="Server's metrics address.", show_default=False)
    ] = None,
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    as_json: AsJson = False,
) -> None:
    """Watch a server and say what is wrong with it: figures, what follows, the command that helps, what it will gain.

    Ends with 0 where nothing is lost, with 8 where latency or throughput is, with 9 where requests fail.
    """
    from smartbatch.doctor.evidence import Observer
    from smartbatch.doctor.probe import WARM_UP_S, Probe, probe_body
    from smartbatch.doctor.report import examine

    if not probe and body is not None:
        raise UsageError("--body is what --probe sends: give --probe as well")
    endpoints = server_asked(
        run_dir, inference_port, inference_url=url, management_url=management_url, metrics_url=metrics_url
    )
    load: AbstractContextManager[object] = nullcontext()
    observer = Observer(endpoints, model)
    if probe:
        with endpoints.management() as client:
            names = [entry.model_name for entry in client.models()] if model is None else [model]
            if len(names) != 1:
                raise UsageError(f"--probe sends to one model: name it, of {', '.join(sorted(names)) or 'none'}")
            described = client.describe(names[0], customized=True).customized
        observer = Observer(endpoints, names[0], clients)
        load = Probe(endpoints, names[0], probe_body(described, body), clients)
        say(f"{clients} clients send to {names[0]} for {seconds:g} s, after {WARM_UP_S:g} s of warming up")
    else:
        say(f"watching {model or 'all models'} for {seconds:g} s")
    with load:
        found = observer.watch(seconds)
    named = ""
    if run_dir is not None:
        named = f"--run-dir {shlex.quote(str(run_dir))}"
    elif inference_port is not None:
        named = f"--inference-port {inference_port}"
    elif management_url is not None:
        named = f"--management-url {shlex.quote(management_url)}"
    report = examine(found, named)
    answer(report.as_dict(), as_json, report.text())
    raise typer.Exit(report.exit_code)
