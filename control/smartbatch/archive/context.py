"""What TorchServe hands to a handler: its own context, filled as its worker fills it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

FRONTENDS_HEADERS = MappingProxyType({"explain": "False", "url_path": ""})
"""What TorchServe's frontend adds to those of a client."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def start_context(
    model_dir: Path,
    manifest: dict[str, Any],
    model_yaml_config: dict[str, Any],
    batch_size: int,
    gpu_id: int | None = None,
) -> Any:
    """The context that `initialize` gets.

    Args:
        model_dir: the unpacked archive.
        manifest: of the archive.
        model_yaml_config: model-config.yaml, parsed.
        batch_size: as registered.
        gpu_id: of the GPU that the worker has for itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its version.txt and the metrics' file open
        import ts
        from ts.context import Context
        from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

        metrics = MetricsCacheYamlImpl(config_file_path=str(Path(ts.__file__).with_name("configs") / "metrics.yaml"))
    metrics.initialize_cache()
    return Context(
        manifest["model"]["modelName"],
        str(model_dir),
        manifest,
        batch_size,
        gpu_id,
        ts.__version__,
        metrics=metrics,
        model_yaml_config=model_yaml_config,
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What TorchServe's frontend hands over for one request."""

    fields: tuple[tuple[str, str, bytes], ...]
    """Of its body: name, content type, value."""
    headers: Mapping[str, str]

    @classmethod
    def of_body(cls, body: bytes, content_type: str, headers: Mapping[str, str] = NO_HEADERS) -> Request:
        """A client's request with a plain body."""
        return cls((("body", content_type, body),), {"Content-Type": content_type, **headers, **FRONTENDS_HEADERS})

    def as_read(self, number: int) -> dict[str, Any]:
        """As `ts.protocol` gives it."""
        return {
            "requestId": f"request-{number}".encode(),
            "headers": [{"name": k.encode(), "value": v.encode()} for k, v in self.headers.items()],
            "parameters": [{"name": n, "contentType": t, "value": bytearray(v)} for n, t, v in self.fields],
        }


def receive(context: Any, batch: Sequence[Request]) -> list[dict[str, Any]]:
    """Make it the context of one batch, as `ts.service` does.

    Returns:
        What `handle` gets as its data.
    """
    from ts.service import Service

    read = [request.as_read(number) for number, request in enumerate(batch)]
    context.request_processor, data, context.request_ids = Service.retrieve_data_for_inference(read)
    context.metrics.request_ids = context.request_ids
    return list(data)
