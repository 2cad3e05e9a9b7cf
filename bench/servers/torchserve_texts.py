# mypy: disable-error-code="import-not-found, misc"
"""A classifier of texts as TorchServe's users write one on its BaseHandler: the batch padded to its longest, eager."""

from __future__ import annotations

import json
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class TextHandler(BaseHandler):
    """Bodies {"text": …} to the class of each."""

    def initialize(self, context: Any) -> None:
        """Load the model and its tokenizer from the archive's folder."""
        from tokenizers import Tokenizer
        from transformers import AutoModelForSequenceClassification

        folder = context.system_properties["model_dir"]
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.tokenizer.enable_truncation(self.model.config.max_position_embeddings)
        self.tokenizer.enable_padding(pad_id=self.model.config.pad_token_id or 0)
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Texts to [N, L] of tokens, and of which of them count."""
        bodies: list[Any] = [row.get("body") or row.get("data") for row in data]
        texts = [(json.loads(body) if isinstance(body, (bytes, bytearray)) else body)["text"] for body in bodies]
        encoded = self.tokenizer.encode_batch(texts)
        return {
            "input_ids": torch.tensor([one.ids for one in encoded]),
            "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
        }

    def inference(self, data: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Scores, [N, classes]."""
        with torch.inference_mode():
            scores: torch.Tensor = self.model(**data).logits
        return scores

    def postprocess(self, data: torch.Tensor) -> list[dict[str, int]]:
        """The best class of each."""
        return [{"class": index} for index in data.argmax(1).tolist()]
