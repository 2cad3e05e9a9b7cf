"""How long a text the model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smartbatch.archive.huggingface.folder import Folder
from smartbatch.archive.settings import ArchiveError
from smartbatch.errors import UsageError

MOST = 4096
"""Tokens of one text, unless the user sets max_length: models of 100,000 take minutes and gigabytes for such a text."""
_UNKNOWN = 512  # where positions are relative and the tokenizer does not say
DEFAULT_NEW_TOKENS = 64
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_COUNTED_BEHIND_PADDING = (
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Types of models whose first position is the one after pad_token_id."""


def longest(folder: Folder, config: Mapping[str, Any], task: str, overrides: Mapping[str, str]) -> int:
    """Most tokens of one text.

    Raises:
        UsageError: the user's max_length is more than the model has positions for.
        ArchiveError: the model has no room for a text.
    """
    positions = next((int(config[key]) for key in _POSITIONS if isinstance(config.get(key), int)), None)
    if positions is not None and config.get("model_type") in _COUNTED_BEHIND_PADDING:
        positions -= int(config.get("pad_token_id") or 0) + 1
    if positions is not None and task == "text-generation":
        num_new = _number(overrides, "max_new_tokens") or DEFAULT_NEW_TOKENS
        positions -= num_new
        if positions < 1:
            raise ArchiveError(f"{folder.path}: max_new_tokens {num_new} leaves no room for a prompt")
    wanted = _number(overrides, "max_length")
    if wanted is not None:
        if positions is not None and wanted > positions:
            raise UsageError(f"max_length must be at most {positions}, which the model has positions for; got {wanted}")
        return wanted
    said = [(folder.json("sentence_bert_config.json") or {}).get("max_seq_length")]
    said.append((folder.json("tokenizer_config.json") or {}).get("model_max_length"))
    # Tokenizers without a limit say 1e30.
    limits = [int(value) for value in (positions, *said) if isinstance(value, (int, float)) and value >= 1]
    return min(min(limits, default=_UNKNOWN), MOST)


def _number(overrides: Mapping[str, str], key: str) -> int | None:
    text = overrides.get(key)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"bad value for {key}: {text!r}") from None
