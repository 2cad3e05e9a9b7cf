# mypy: disable-error-code="import-not-found, misc"
"""TorchServe's handler as an expert writes it; in an archive, beside expert.py."""

from __future__ import annotations

from typing import Any

import expert
from ts.torch_handler.base_handler import BaseHandler


class ExpertHandler(BaseHandler):
    """A batch of bodies to its classes; what else BaseHandler does, it leaves out."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        self.expert = expert.Expert(expert.Setup(**context.model_yaml_config["handler"]))
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, int]]:
        """Decode, compute."""
        if not data[0]:  # asked what it is
            return [{}]
        bodies = [bytes(row.get("body") or row.get("data") or b"") for row in data]
        return [{"class": index} for index in self.expert.answer(bodies)]
