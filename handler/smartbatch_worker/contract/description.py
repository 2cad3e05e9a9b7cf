"""What a worker says of itself: to `GET /models/<name>?customized=true`, and so to `smartbatch status`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, TypedDict, cast

MAX_EXAMPLE_BYTES = 64 * 1024
"""Of an example that is told whole; every question to a worker costs that much."""


class ExampleBody(TypedDict):
    """The request's body in the archive that a user gave as `--example`."""

    content_type: str
    num_bytes: int
    body: str | None
    """In base64; None where it is longer than MAX_EXAMPLE_BYTES."""


class Description(TypedDict):
    """One worker of SmartBatch's handler; sizes and times by shape, as "3x224x224"."""

    loaded: bool
    model: str
    weights: str
    """Where they are from."""
    device: str
    precision: str
    """What is computed in, which may be better than what is configured."""
    compile: str
    """What made the forward; never auto."""
    measuring: bool
    """Whether the fastest way is still being measured, while this one answers."""
    threads: int
    micro_batch: Mapping[str, int]
    micro_batch_ms_per_item: Mapping[str, Mapping[str, float]]
    """By micro-batch size, as measured."""
    batch_limit: int | None
    """Requests that it wants in a batch at most, for `target_p95_ms`; None where that is not set."""
    memory_ceilings: Mapping[str, int]
    loads: int
    load_seconds: float
    pid: int
    config: Mapping[str, Any]
    """Every key of the handler's configuration."""
    example: ExampleBody | None
    """None: the archive has none."""


def as_description(answer: object) -> Description | None:
    """A worker's answer, if it is one of ours: other handlers answer what they like, or nothing."""
    return cast(Description, answer) if isinstance(answer, Mapping) and "pid" in answer else None


def example_of(content: bytes, content_type: str) -> ExampleBody:
    """An example as a worker tells it."""
    is_small = len(content) <= MAX_EXAMPLE_BYTES
    body = base64.b64encode(content).decode() if is_small else None
    return {"content_type": content_type, "num_bytes": len(content), "body": body}


def told_example(described: Mapping[str, Any]) -> tuple[bytes, str] | None:
    """The example's body and content type, as a worker told it; None where it told none, or not all of it."""
    example = described.get("example")
    if not isinstance(example, Mapping) or not isinstance(example.get("body"), str):
        return None
    try:
        return base64.b64decode(example["body"], validate=True), str(example.get("content_type", ""))
    except (binascii.Error, ValueError):
        return None
