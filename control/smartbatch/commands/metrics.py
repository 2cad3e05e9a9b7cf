"""`smartbatch metrics`: five figures since the server started."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from smartbatch.commands.options import AsJson, InferencePort, MetricsUrl, RunDir, server_asked
from smartbatch.commands.output import answer


def metrics(
    model: Annotated[str | None, typer.Option(help="One model; default: all together.")] = None,
    url: MetricsUrl = None,
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    as_json: AsJson = False,
) -> None:
    """Requests, batches, average batch size and latency quantiles (seconds), since the server started."""
    from smartbatch.remote.scrape import scrape, summary

    endpoints = server_asked(run_dir, inference_port, metrics_url=url)
    found = summary(scrape(endpoints.metrics_url, verify=endpoints.verify), model)
    answer(dict(found), as_json, "\n".join(f"{key:<15} {_figure(value)}" for key, value in found.items()))


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
