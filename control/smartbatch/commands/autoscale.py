"""`smartbatch autoscale`: as many workers as an objective needs, while the load comes and goes."""

from __future__ import annotations

import json
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from smartbatch.commands.options import ChangedServer, DrainTimeout, ModelName, ReadyTimeout
from smartbatch.commands.output import say
from smartbatch.option_groups import composed
from smartbatch.server.stopping.stop_signals import Flag

if TYPE_CHECKING:
    from smartbatch.autoscaling.run import Event


@composed
def autoscale(
    *,
    model: ModelName,
    slo_p95_ms: Annotated[float, typer.Option(help="Objective for p95, as the server counts it.", min=0.1)],
    min_workers: Annotated[int, typer.Option(help="Fewest workers.", min=1)] = 1,
    max_workers: Annotated[
        int | None, typer.Option(help="Most workers.", min=1, show_default="the server's cores")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between looks.", min=0.2, max=60)] = 1.0,
    cool_down: Annotated[
        float, typer.Option(help="Seconds for which fewer workers must have been enough before there are fewer.", min=1)
    ] = 30.0,
    seconds: Annotated[float | None, typer.Option(help="To go on.", min=1, show_default="until Ctrl-C")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    timeout: ReadyTimeout = 120.0,
    drain_timeout: DrainTimeout = 120.0,
    server: ChangedServer,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line an event.")] = False,
) -> None:
    """Keep p95 within an objective by as few workers of this machine as do, losing no request.

    Ctrl-C or SIGTERM ends it, after a change that goes on; workers stay as they are then. A second one ends it at once.
    """
    from smartbatch.autoscaling.run import Autoscaler, AutoscaleSettings
    from smartbatch.retune.targets import scale_target

    settings = AutoscaleSettings(
        objective_s=slo_p95_ms / 1000,
        min_workers=min_workers,
        max_workers=max_workers,
        interval_s=interval,
        cool_down_s=cool_down,
        dry_run=dry_run,
        seconds=seconds,
    )

    def tell(event: Event) -> None:
        typer.echo(json.dumps(event.as_dict()) if as_json else event.text())

    target = scale_target(
        server.endpoints(), model, None, server.model_store, timeout, drain_timeout, say if as_json else _ignore
    )
    Autoscaler(target, settings, tell, _ended_by_signals()).run()


def _ended_by_signals() -> threading.Event:
    ended = Flag()

    def end(signum: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, end)
    return ended


def _ignore(line: str) -> None:
    """A step of a change, of which the event tells."""
