"""A handler of one's own: takes CSV lines, answers with a digit and how sure the model is.

TorchServe allows one class in this file; helpers belong in a module beside it (`--extra-files`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from smartbatch_handler import SmartBatchHandler


class DigitsHandler(SmartBatchHandler):
    """Reads `text/csv` bodies of 64 ink values; every other body as SmartBatch does."""

    def preprocess_item(self, body: bytes | bytearray, headers: Mapping[str, str]) -> Any:
        """One request to one tensor [1, 8, 8]; a ValueError is answered 400 with its text, for this row alone."""
        if not headers.get("content-type", "").startswith("text/csv"):
            return super().preprocess_item(body, headers)
        values = [float(value) for value in bytes(body).decode().split(",")]
        if len(values) != 64:
            raise ValueError(f"a CSV body has 64 values, one a pixel; got {len(values)}")
        return torch.tensor(values).view(1, 8, 8)

    def postprocess_item(self, output: torch.Tensor) -> dict[str, Any]:
        """One item's logits [10] to what stands in "result"."""
        confidence, digit = output.softmax(0).max(0)
        return {"digit": int(digit), "confidence": round(float(confidence), 4)}
