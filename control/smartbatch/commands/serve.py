"""`smartbatch serve`: start, register, wait, print what to paste, and stop cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from smartbatch.commands.options import BatchSize, MaxDelayMs, Workers
from smartbatch.commands.output import note
from smartbatch.errors import UsageError

_SERVER = "Server"
_ACCESS = "Access"


def serve(
    model: Annotated[
        list[str] | None, typer.Option(help="Model to serve; may be repeated.", show_default="resnet18")
    ] = None,
    model_store: Annotated[Path, typer.Option(help="Folder with the archives.")] = Path("model_store"),
    batch_size: BatchSize = None,
    max_delay_ms: MaxDelayMs = None,
    workers: Workers = None,
    host: Annotated[str, typer.Option(help="Address of the inference port.", rich_help_panel=_SERVER)] = "127.0.0.1",
    inference_port: Annotated[int, typer.Option(help="0: any free one.", rich_help_panel=_SERVER)] = 8080,
    management_host: Annotated[str, typer.Option(rich_help_panel=_SERVER)] = "127.0.0.1",
    management_port: Annotated[int, typer.Option(rich_help_panel=_SERVER)] = 8081,
    metrics_host: Annotated[str, typer.Option(rich_help_panel=_SERVER)] = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(rich_help_panel=_SERVER)] = 8082,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="State, logs, keys.",
            show_default=".smartbatch/<inference port>",
            envvar="SMARTBATCH_RUN_DIR",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(help="Seconds to answer accepted requests at stop.", min=0, rich_help_panel=_SERVER)
    ] = 30.0,
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds until workers must be READY.", rich_help_panel=_SERVER)
    ] = 300.0,
    detach: Annotated[bool, typer.Option("--detach", help="Return when ready; end it by `smartbatch stop`.")] = False,
    token_auth: Annotated[
        bool, typer.Option("--token-auth", help="Ask clients for tokens.", rich_help_panel=_ACCESS)
    ] = False,
    token_minutes: Annotated[float, typer.Option(help="How long a token lives.", rich_help_panel=_ACCESS)] = 60.0,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain.", rich_help_panel=_ACCESS)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM RSA private key.", rich_help_panel=_ACCESS)] = None,
) -> None:
    """Start TorchServe, register models, serve until Ctrl-C."""
    from smartbatch.server.batching import resolve_batching
    from smartbatch.server.serving import ServePlan, serve_until_stopped, start_detached
    from smartbatch.server.settings import ServerSettings

    if not model_store.is_dir():
        raise UsageError(
            f"--model-store must be a folder, got {str(model_store)!r}: `smartbatch archive` makes and fills it"
        )
    batching, notes = resolve_batching(batch_size, max_delay_ms, workers)
    settings = ServerSettings(
        model_store=model_store,
        run_dir=run_dir,
        host=host,
        inference_port=inference_port,
        management_host=management_host,
        management_port=management_port,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        token_auth=token_auth,
        token_expiration_min=token_minutes,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    plan = ServePlan(
        settings=settings,
        models=tuple(model or ["resnet18"]),
        batching=batching,
        grace_s=grace,
        ready_timeout_s=ready_timeout,
    )
    note(notes)
    if detach:
        start_detached(plan, [arg for arg in sys.argv[1:] if arg != "--detach"], dict(os.environ))
    else:
        serve_until_stopped(plan)
