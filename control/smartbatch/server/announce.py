"""What `smartbatch serve` says when a model is ready, and the command it offers to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from smartbatch.errors import DeadlineError
from smartbatch.remote.management import ManagementClient, ManagementError
from smartbatch.remote.state import ServerState
from smartbatch.server.batching import Batching

_MAX_EXAMPLE_VALUES = 64


def announcement(state: ServerState, model: str, batching: Batching, client: ManagementClient) -> str:
    """Model, workers, batching, weights, and how to call it."""
    handler = _described(client, model)
    weights = f", weights: {handler['weights']}" if "weights" in handler else ""
    config = handler.get("config")
    curl = example_curl(state, model, config.get("input_shape") if isinstance(config, dict) else None)
    return (
        f"{model} is ready on {batching.workers} worker(s), batches of up to {batching.batch_size} "
        f"within {batching.max_batch_delay_ms} ms{weights}. Try:\n\n  {curl}\n"
    )


def _described(client: ManagementClient, model: str) -> Mapping[str, Any]:
    """What a handler of ours says of itself; another may say anything or fail, and serve all the same."""
    try:
        described: Any = client.describe(model, customized=True).customized
    except (ManagementError, DeadlineError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}


def example_curl(state: ServerState, model: str, input_shape: Sequence[int | None] | None) -> str:
    """A command to paste that needs no file, where the model's input is small or an image."""
    parts = ["curl", "-s"]
    if state.tls_cert is not None:
        parts += ["--cacert", state.tls_cert]
    parts.append(f"{state.inference_url}/predictions/{model}")
    data = _example_data(input_shape)
    if data is None:
        parts += ["-T", "FILE"]
    else:
        parts += ["-H", "Content-Type: application/json", "-d", json.dumps({"data": data})]
    command = " ".join(shlex.quote(part) for part in parts)
    if state.token_auth:
        command += f' -H "Authorization: Bearer $(smartbatch token show --run-dir {shlex.quote(state.run_dir)})"'
    return command


def _example_data(shape: Sequence[int | None] | None) -> Any:
    if shape is None:
        return None
    if len(shape) == 3 and shape[0] == 3:
        return [[0.1, 0.2], [0.3, 0.4]]  # a 2-D array stands for a grey image
    sizes = [2 if size is None else size for size in shape]
    count = 1
    for size in sizes:
        count *= size
    if count > _MAX_EXAMPLE_VALUES:
        return None
    data: Any = 0.5
    for size in reversed(sizes):
        data = [data] * size
    return data
