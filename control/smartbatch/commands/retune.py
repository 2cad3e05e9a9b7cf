"""`smartbatch retune`: another batch size, delay or worker count while requests keep coming."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smartbatch.errors import UsageError

if TYPE_CHECKING:
    from smartbatch.remote.endpoints import Endpoints
    from smartbatch.retune.canary import Canary

ModelName = Annotated[str, typer.Argument(help="A registered model.")]
CanaryFile = Annotated[Path | None, typer.Option(help="Body of the canary request; default: made up.")]
ReadyTimeout = Annotated[float, typer.Option(help="Seconds until the new workers must be READY.")]
DrainTimeout = Annotated[float, typer.Option(help="Seconds for the old version's last answers.")]
RunDir = Annotated[Path | None, typer.Option(help="The server's run folder.", envvar="SMARTBATCH_RUN_DIR")]
InferencePort = Annotated[int | None, typer.Option(help="Which server, by its inference port.")]
ManagementUrl = Annotated[str | None, typer.Option(help="A TorchServe not started from here.")]
ModelStore = Annotated[
    Path | None, typer.Option(help="That server's model store, as seen from here.", show_default=False)
]
Url = Annotated[str | None, typer.Option(help="That server's inference address, for the canary.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def retune(
    model: ModelName,
    batch_size: Annotated[int | None, typer.Option(help="Most requests in a batch.")] = None,
    max_delay_ms: Annotated[int | None, typer.Option(help="Longest wait for a batch.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    canary: CanaryFile = None,
    timeout: ReadyTimeout = 120.0,
    drain_timeout: DrainTimeout = 120.0,
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    management_url: ManagementUrl = None,
    model_store: ModelStore = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Change batch size, delay or workers of a running model without losing a request."""
    from smartbatch.retune.run import RetuneSettings
    from smartbatch.retune.run import retune as run

    settings = RetuneSettings(
        model=model,
        batch_size=batch_size,
        max_batch_delay_ms=max_delay_ms,
        workers=workers,
        ready_timeout_s=timeout,
        drain_timeout_s=drain_timeout,
    )
    server = find_server(run_dir, inference_port, management_url, model_store, url, canary, timeout)
    report = run(server.endpoints, settings, server.model_store, server.canary, say=say)
    typer.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.text())


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """Where to change a model, and how to try the change."""

    endpoints: Endpoints
    model_store: Path
    canary: Canary


def find_server(
    run_dir: Path | None,
    inference_port: int | None,
    management_url: str | None,
    model_store: Path | None,
    url: str | None,
    canary: Path | None,
    timeout_s: float,
) -> Server:
    """What the options name.

    Raises:
        UsageError: the canary is no file, or the model store of a server started elsewhere is not named.
    """
    from smartbatch.remote.endpoints import find_endpoints
    from smartbatch.retune.canary import Canary

    if canary is not None and not canary.is_file():
        raise UsageError(f"--canary must be a file, got {str(canary)!r}")
    endpoints = find_endpoints(run_dir, inference_port, management_url=management_url)
    if url is not None:
        endpoints = dataclasses.replace(endpoints, inference_url=url)
    if model_store is None:
        if endpoints.state is None:
            raise UsageError("for a server not started from here, --model-store must name its model store")
        model_store = Path(endpoints.state.model_store)
    knows_inference = endpoints.state is not None or url is not None
    probe = Canary(
        inference_url=endpoints.inference_url if knows_inference else None,
        token=endpoints.inference_token(),
        verify=endpoints.verify,
        file=canary,
        timeout_s=timeout_s,
    )
    return Server(endpoints, model_store, probe)


def say(line: str) -> None:
    """A step, for whoever watches; the answer alone goes to stdout."""
    typer.echo(line, err=True)
