"""A registered model as TorchServe's management API describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """One worker process of a model version."""

    id: str
    pid: int
    """0 while the process starts."""
    status: str
    """READY, or UNLOADING while it starts, loads, dies or restarts."""
    gpu: bool
    started: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStatus:
    """One registered version of a model, as the management API describes it."""

    model_name: str
    version: str
    url: str
    batch_size: int
    max_batch_delay_ms: int
    min_workers: int
    max_workers: int
    response_timeout_s: int
    workers: tuple[WorkerStatus, ...]
    pending_requests: int
    queue_remaining: int
    customized: Mapping[str, Any] | None
    """What the handler says about itself; None where it was not asked."""

    @property
    def is_ready(self) -> bool:
        """All the workers it should have are READY."""
        ready = sum(worker.status == "READY" for worker in self.workers)
        return ready >= self.min_workers > 0

    @classmethod
    def from_json(cls, reply: Mapping[str, Any]) -> ModelStatus:
        """Parse one element of `GET /models/<name>`'s answer."""
        queue = reply.get("jobQueueStatus") or {}
        customized = reply.get("customizedMetadata")
        if isinstance(customized, str):
            customized = json.loads(customized)
        return cls(
            model_name=reply["modelName"],
            version=reply["modelVersion"],
            url=reply["modelUrl"],
            batch_size=reply["batchSize"],
            max_batch_delay_ms=reply["maxBatchDelay"],
            min_workers=reply["minWorkers"],
            max_workers=reply["maxWorkers"],
            response_timeout_s=reply["responseTimeout"],
            workers=tuple(
                WorkerStatus(
                    id=w["id"],
                    pid=w.get("pid", 0),
                    status=w["status"],
                    gpu=w.get("gpu", False),
                    started=w["startTime"],
                )
                for w in reply.get("workers", ())
            ),
            pending_requests=queue.get("pendingRequests", 0),
            queue_remaining=queue.get("remainingCapacity", 0),
            customized=customized,
        )


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model's name and the archive it came from."""

    model_name: str
    url: str
