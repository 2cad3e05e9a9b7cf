"""SmartBatch's handler as a plain function, so that other servers can be measured around the very same work.

    answers = Worker(unpacked_archive).answer([body, body, ...])

Decode, micro-batches, forward and encoding are the handler's own; only what carries bytes to it differs.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "handler"))

from smartbatch_handler import SmartBatchHandler


class LocalContext:
    """The part of TorchServe's context the handler uses, without TorchServe."""

    model_name = "resnet18"

    def __init__(self, model_dir: Path, batch_size: int, gpu_id: int | None = None) -> None:
        self.system_properties = {"model_dir": str(model_dir), "batch_size": batch_size, "gpu_id": gpu_id}
        self.model_yaml_config = yaml.safe_load((model_dir / "model-config.yaml").read_text())
        self.manifest = {"model": {"modelVersion": "1.0"}}
        self.statuses: dict[int, int] = {}

    def get_all_request_header(self, index: int) -> dict[str, str]:
        """No headers: the body's magic bytes tell its format."""
        return {}

    def get_request_header(self, index: int, key: str) -> str | None:
        """None, as `get_all_request_header`."""
        return None

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Kept, so that a failed row is seen."""
        self.statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Not needed here."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Not needed here."""


class Worker:
    """One handler in this process, its model loaded and calibrated."""

    def __init__(self, model_dir: Path, batch_size: int, num_threads: int, gpu_id: int | None = None) -> None:
        torch.set_num_threads(num_threads)
        self.context = LocalContext(model_dir, batch_size, gpu_id)
        handler_config = self.context.model_yaml_config.setdefault("handler", {})
        handler_config |= {"load": "eager", "threads": num_threads}
        self.handler = SmartBatchHandler()
        # Metric lines go nowhere; there is no TorchServe to read them.
        with contextlib.redirect_stdout(io.StringIO()):
            self.handler.initialize(self.context)
            self.handler.telemetry._write = lambda text: None

    def answer(self, bodies: Sequence[bytes]) -> list[bytes]:
        """One JSON answer a body, in order.

        Raises:
            RuntimeError: a row failed; the bench sends none that may.
        """
        rows: list[dict[str, Any]] = [{"body": body} for body in bodies]
        answers = self.handler.handle(rows, self.context)
        failed = [index for index, status in self.context.statuses.items() if status != 200]
        if failed:
            raise RuntimeError(f"rows {failed} failed: {answers[failed[0]][:300]!r}")
        return answers
