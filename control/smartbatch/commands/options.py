"""Every option that more than one command has, once: its name, type, bounds and help.

Defaults stand in the commands' signatures, since a first start may take longer than a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smartbatch.commands.output import say
from smartbatch.errors import UsageError

if TYPE_CHECKING:
    from smartbatch.remote.endpoints import Endpoints

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Which server.
RunDir = Annotated[Path | None, typer.Option("--run-dir", help="The server's run folder.", envvar="SMARTBATCH_RUN_DIR")]
InferencePort = Annotated[
    int | None, typer.Option("--inference-port", help="Which server, by its inference port.", min=1, max=65534)
]
ManagementUrl = Annotated[
    str | None, typer.Option("--management-url", help="A TorchServe not started from here.", show_default=False)
]
ModelStore = Annotated[
    Path | None, typer.Option(help="That server's model store, as seen from here.", show_default=False)
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedServer:
    """A server whose models are changed, by whichever of its names is known."""

    run_dir: RunDir = None
    inference_port: InferencePort = None
    management_url: ManagementUrl = None
    model_store: ModelStore = None

    def endpoints(self) -> Endpoints:
        """Where it is."""
        return server_asked(self.run_dir, self.inference_port, management_url=self.management_url)


def server_asked(
    run_dir: Path | None,
    inference_port: int | None,
    *,
    inference_url: str | None = None,
    management_url: str | None = None,
    metrics_url: str | None = None,
) -> Endpoints:
    """The server that the options name; where they name none and none was started from here, it is said which is asked.

    Raises:
        SmartBatchError: as `find_endpoints` has it.
    """
    from smartbatch.remote.endpoints import find_endpoints

    found = find_endpoints(
        run_dir,
        inference_port,
        inference_url=inference_url,
        management_url=management_url,
        metrics_url=metrics_url,
    )
    if found.is_guess:
        say(
            "smartbatch: no server was named, and none was started from here: asking TorchServe's standard ports, "
            f"{found.inference_url}, {found.management_url} and {found.metrics_url}"
        )
    return found


InferenceUrl = Annotated[str | None, typer.Option("--url", help="Server's inference address.", show_default=False)]
MetricsUrl = Annotated[str | None, typer.Option("--url", help="Metrics address.", show_default=False)]

# Which model, and how it is to be served.
ModelName = Annotated[str, typer.Argument(help="A registered model.")]
BatchSize = Annotated[int | None, typer.Option(help="Most requests in a batch; or MAX_BATCH_SIZE.", show_default="32")]
MaxDelayMs = Annotated[
    float | None, typer.Option(help="Longest wait for a batch; or MAX_WAIT_TIME in seconds.", show_default="10")
]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes per model.", show_default="one per GPU, or per core up to 4")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of model-config.yaml.")
]


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """Split `key=value` texts.

    Raises:
        UsageError: one has no `=`.
    """
    overrides = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UsageError(f"--set takes KEY=VALUE, got {text!r}")
        overrides[key.strip()] = value.strip()
    return overrides


# How a change is tried, and how long it may take.
Canary = Annotated[
    Path | None, typer.Option(help="Body of the canary request; default: the archive's example, or made up.")
]
CanaryUrl = Annotated[
    str | None, typer.Option("--url", help="That server's inference address, for the canary.", show_default=False)
]
ReadyTimeout = Annotated[float, typer.Option(help="Seconds until the workers must be READY.")]
DrainTimeout = Annotated[float, typer.Option(help="Seconds for the last answers of workers taken away.")]
Grace = Annotated[float, typer.Option(help="Seconds accepted requests may take to be answered; 0: end at once.", min=0)]
