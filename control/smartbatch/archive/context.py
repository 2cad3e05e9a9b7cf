"""What TorchServe hands to a handler: its own context, filled as its worker fills it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def start_context(model_dir: Path, manifest: dict[str, Any], model_yaml_config: dict[str, Any], batch_size: int) -> Any:
    """The context that `initialize` gets, on a machine without a GPU.

    Args:
        model_dir: the unpacked archive.
        manifest: of the archive.
        model_yaml_config: model-config.yaml, parsed.
        batch_size: as registered.
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
        None,
        ts.__version__,
        metrics=metrics,
        model_yaml_config=model_yaml_config,
    )


def receive(context: Any, bodies: Sequence[tuple[bytes, str]]) -> list[dict[str, Any]]:
    """Make it the context of one batch of plain bodies, each with its content type.

    Returns:
        What `handle` gets as its data.
    """
    from ts.context import RequestProcessor

    context.request_processor = [
        RequestProcessor(
            {"body": {"content-type": content_type}, "Content-Type": content_type, "explain": "False", "url_path": ""}
        )
        for _, content_type in bodies
    ]
    context.request_ids = {index: f"check-{index}" for index in range(len(bodies))}
    context.metrics.request_ids = context.request_ids
    return [{"body": bytearray(body)} for body, _ in bodies]
