"""What a worker says of itself: to `GET /models/<name>?customized=true`, and so to `smartbatch status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast


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
    threads: int
    micro_batch: Mapping[str, int]
    micro_batch_ms_per_item: Mapping[str, Mapping[str, float]]
    """By micro-batch size, as measured."""
    memory_ceilings: Mapping[str, int]
    loads: int
    load_seconds: float
    pid: int
    config: Mapping[str, Any]
    """Every key of the handler's configuration."""


def as_description(answer: object) -> Description | None:
    """A worker's answer, if it is one of ours: other handlers answer what they like, or nothing."""
    return cast(Description, answer) if isinstance(answer, Mapping) and "pid" in answer else None
