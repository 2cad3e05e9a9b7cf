"""The handler in this process, with TorchServe's own context, as `smartbatch archive` fills it for its check."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbatch.archive.context import Request as Request
from smartbatch.archive.context import receive, start_context
from smartbatch_handler import SmartBatchHandler


def request(body: bytes | Any, content_type: str = "application/json", **headers: str) -> Request:
    """A client's request; a body that is no bytes is sent as JSON `{"data": body}`."""
    body = body if isinstance(body, bytes) else json.dumps({"data": body}).encode()
    return Request.of_body(body, content_type, {name.replace("_", "-"): value for name, value in headers.items()})


DESCRIBE = Request((), {"Host": "127.0.0.1:8081", "content-length": "0", "describe": "True"})
"""What `GET /models/<name>?customized=true` becomes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a batch."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of an error."""
        return self.status, self.json["error"]["code"]


class Worker:
    """One worker's handler on an unpacked archive.

    Args:
        folder: with the model's files.
        section: the `handler:` section.
        handler: a subclass, where it is not the handler itself.
        batch_size: as registered.
    """

    def __init__(
        self,
        folder: Path,
        section: Mapping[str, Any],
        handler: type[SmartBatchHandler] = SmartBatchHandler,
        batch_size: int = 8,
    ) -> None:
        # One thread needs no board of busy workers in the system's temporary folder.
        config = {"handler": {"threads": 1, **section}}
        self.context = start_context(folder, {"model": {"modelName": "m"}}, config, batch_size)
        self.handler = handler()
        self.handler.initialize(self.context)
        self.handler.model.measures_first = True  # what is tested is what serves in the end

    def answer(self, *batch: Request) -> Sequence[Reply]:
        """Hand over a batch; TorchServe's own checks of what came back hold."""
        bodies = self.handler.handle(receive(self.context, batch), self.context)
        assert isinstance(bodies, list)
        assert len(bodies) == len(batch)
        return [
            Reply(processor.get_response_status_code(), processor.get_response_headers(), bytes(body))
            for processor, body in zip(self.context.request_processor, bodies, strict=True)
        ]
