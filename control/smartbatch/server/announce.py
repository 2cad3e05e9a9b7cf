"""What `smartbatch serve` says when a model is ready, and the command it offers to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.description import as_description, told_example

from smartbatch.errors import DeadlineError
from smartbatch.remote.management import ManagementClient, ManagementError
from smartbatch.remote.state import ServerState
from smartbatch.sample_request import made_up_data, num_numbers
from smartbatch.server.batching import Batching

_MAX_EXAMPLE_VALUES = 64
_MAX_EXAMPLE_CHARS = 1000


def announcement(state: ServerState, model: str, batching: Batching, client: ManagementClient) -> str:
    """Model, workers, batching, weights, and how to call it."""
    handler = _described(client, model)
    weights = f", weights: {handler['weights']}" if "weights" in handler else ""
    curl = example_curl(state, model, handler)
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
    return as_description(described) or {}


def example_curl(state: ServerState, model: str, described: Mapping[str, Any]) -> str:
    """A command to paste that needs no file of the user's, where the model's input is small, an image or an example.

    Args:
        described: what its worker says of itself. An example that does not fit into a command line is laid into the run
            folder.
    """
    parts = ["curl", "-s"]
    if state.tls_cert is not None:
        parts += ["--cacert", state.tls_cert]
    parts.append(f"{state.inference_url}/predictions/{model}")
    parts += _body_options(state, model, described)
    command = " ".join(shlex.quote(part) for part in parts)
    if state.token_auth:
        command += f' -H "Authorization: Bearer $(smartbatch token show --run-dir {shlex.quote(state.run_dir)})"'
    return command


def _body_options(state: ServerState, model: str, described: Mapping[str, Any]) -> list[str]:
    example = told_example(described)
    if example is not None:
        body, content_type = example
        told = ["-H", f"Content-Type: {content_type}"]
        text = body.decode("utf-8", "replace").strip()
        if content_type == media_types.JSON and len(body) <= _MAX_EXAMPLE_CHARS and "\n" not in text:
            return [*told, "-d", text]
        file = _as_file(state, model, body, content_type)
        return [*told, "-T", "FILE" if file is None else file]
    data = _example_data(described.get("config"))
    return ["-T", "FILE"] if data is None else ["-H", f"Content-Type: {media_types.JSON}", "-d", json.dumps(data)]


def _as_file(state: ServerState, model: str, body: bytes, content_type: str) -> str | None:
    """The path of the example in the run folder; None where it cannot be written: no reason not to serve."""
    suffix = next((suffix for suffix, kind in media_types.BY_SUFFIX.items() if kind == content_type), "")
    path = Path(state.run_dir) / f"example-{model}{suffix}"
    try:
        path.write_bytes(body)
    except OSError:
        return None
    return str(path)


def _example_data(config: object) -> dict[str, Any] | None:
    """What fits the model's inputs and into a command line."""
    if not isinstance(config, Mapping):
        return None
    shape = config.get("input_shape")
    if shape is not None and len(shape) == 3 and shape[0] == 3:
        return {"data": [[0.1, 0.2], [0.3, 0.4]]}  # a 2-D array stands for a grey image
    data = made_up_data(config, image_side=2)
    return None if data is None or num_numbers(data) > _MAX_EXAMPLE_VALUES else data
