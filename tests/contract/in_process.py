"""The handler in this process, called as TorchServe's Python code calls it; `ts.service` and `ts.context` are real."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbatch_handler import SmartBatchHandler

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # importing it leaves its version.txt open
    from ts.context import Context
    from ts.service import Service

CLIENTS_HEADERS = {"explain": "False", "url_path": ""}
"""What TorchServe's frontend adds to those of a client."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the frontend hands over for one request: its headers and the fields of its body."""

    fields: tuple[tuple[str, str, bytes], ...]
    """Name, content type, value."""
    headers: Mapping[str, str]

    def as_read(self, number: int) -> dict[str, Any]:
        """As `ts.protocol` gives it."""
        return {
            "requestId": f"request-{number}".encode(),
            "headers": [{"name": k.encode(), "value": v.encode()} for k, v in self.headers.items()],
            "parameters": [{"name": n, "contentType": t, "value": bytearray(v)} for n, t, v in self.fields],
        }


def request(body: bytes | Any, content_type: str = "application/json", **headers: str) -> Request:
    """A client's request; a body that is no bytes is sent as JSON `{"data": body}`."""
    body = body if isinstance(body, bytes) else json.dumps({"data": body}).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request((("body", content_type, body),), {"Content-Type": content_type, **names, **CLIENTS_HEADERS})


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
        self.context = Context("m", str(folder), {}, batch_size, None, "0.12.0")
        # One thread needs no board of busy workers in the system's temporary folder.
        self.context.model_yaml_config = {"handler": {"threads": 1, **section}}
        self.handler = handler()
        self.handler.initialize(self.context)

    def answer(self, *batch: Request) -> Sequence[Reply]:
        """Hand over a batch; TorchServe's own checks of what came back hold."""
        read = [entry.as_read(number) for number, entry in enumerate(batch)]
        processors, data, ids = Service.retrieve_data_for_inference(read)
        self.context.request_processor, self.context.request_ids = processors, ids
        bodies = self.handler.handle(data, self.context)
        assert isinstance(bodies, list)
        assert len(bodies) == len(batch)
        return [
            Reply(processor.get_response_status_code(), processor.get_response_headers(), bytes(body))
            for processor, body in zip(processors, bodies, strict=True)
        ]
