"""`smartbatch stop`: end a server without losing a request."""

from __future__ import annotations

import typer

from smartbatch.commands.options import AsJson, Grace, InferencePort, RunDir
from smartbatch.commands.output import answer
from smartbatch.errors import DeadlineError


def stop(
    run_dir: RunDir = None, inference_port: InferencePort = None, grace: Grace = 30.0, as_json: AsJson = False
) -> None:
    """Answer what was accepted, refuse what comes after, stop; returns when the processes are gone."""
    from smartbatch.server.stopping.stop import stop_server

    report = stop_server(run_dir, inference_port, grace)
    answer(report.as_dict(), as_json, report.text())
    if grace > 0 and not report.complete:
        raise typer.Exit(DeadlineError.exit_code)
