"""Where a model is changed and how the change is tried, from what a user or a program names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from smartbatch.errors import UsageError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.retune.canary import Canary
from smartbatch.retune.scaling import ScaleTarget


@dataclasses.dataclass(frozen=True, slots=True)
class RetuneTarget:
    """Where to change a model, and how to try the change."""

    endpoints: Endpoints
    model_store: Path
    canary: Canary


def retune_target(
    endpoints: Endpoints,
    model_store: Path | None,
    url: str | None,
    canary: Path | None,
    timeout_s: float,
) -> RetuneTarget:
    """What the options of `retune` and `tune` name.

    Raises:
        UsageError: the canary is no file, or the model store of a server started elsewhere is not named.
    """
    if canary is not None and not canary.is_file():
        raise UsageError(f"--canary must be a file, got {str(canary)!r}")
    if url is not None:
        endpoints = dataclasses.replace(endpoints, inference_url=url)
    if model_store is None:
        if endpoints.state is None:
            raise UsageError("for a server not started from here, --model-store must name its model store")
        model_store = Path(endpoints.state.model_store)
    knows_inference = endpoints.state is not None or url is not None
    return RetuneTarget(endpoints, model_store, _canary(endpoints, knows_inference, timeout_s, canary))


def scale_target(
    endpoints: Endpoints,
    model: str,
    version: str | None,
    model_store: Path | None,
    ready_timeout_s: float,
    drain_timeout_s: float,
    say: Callable[[str], None],
) -> ScaleTarget:
    """What the options of `scale` and `unregister` name; the store of a server started here is known."""
    if model_store is None and endpoints.state is not None:
        model_store = Path(endpoints.state.model_store)
    return ScaleTarget(
        endpoints=endpoints,
        model=model,
        version=version,
        model_store=model_store,
        canary=_canary(endpoints, endpoints.state is not None, ready_timeout_s),
        ready_timeout_s=ready_timeout_s,
        drain_timeout_s=drain_timeout_s,
        say=say,
    )


def _canary(endpoints: Endpoints, knows_inference: bool, timeout_s: float, file: Path | None = None) -> Canary:
    return Canary(
        inference_url=endpoints.inference_url if knows_inference else None,
        token=endpoints.inference_token(),
        verify=endpoints.verify,
        file=file,
        timeout_s=timeout_s,
    )
