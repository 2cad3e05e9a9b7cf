"""A management API that is none: what a worker would say of itself, said by the test."""

from __future__ import annotations

import json
from typing import Any

from smartbatch.remote.management import ManagementClient, ModelStatus


class Says(ManagementClient):
    """A server whose handler describes itself as told.

    Args:
        said: what it says; an exception is raised.
    """

    def __init__(self, said: Any) -> None:
        super().__init__("http://127.0.0.1:1")
        self._said = said

    def describe(self, model: str, *_: Any, **__: Any) -> ModelStatus:
        """Said without being asked over the network."""
        if isinstance(self._said, Exception):
            raise self._said
        fields = {"modelName": model, "modelVersion": "1.0", "modelUrl": "", "batchSize": 1, "maxBatchDelay": 1}
        fields |= {"responseTimeout": 1, "minWorkers": 1, "maxWorkers": 1, "workers": []}
        return ModelStatus.from_json({**fields, "customizedMetadata": json.dumps(self._said), "jobQueueStatus": {}})
