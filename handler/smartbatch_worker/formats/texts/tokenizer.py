"""A tokenizer.json: texts to the numbers that a model was trained on, and back.

The library is used by one text at a time, so that it starts no threads: rows are decoded in several of ours already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbatch_worker.errors import ModelRejected
from smartbatch_worker.formats.limits import first_line

CHARS_PER_TOKEN = 32
"""Times max_length, what is looked at of one text: a tokenizer reads all that it is given before it cuts, at many
times the memory. Only text of words this long on the average, or of as much white space, loses more than it had to."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one text, or of a text and its pair."""

    ids: list[int]
    attention_mask: list[int]
    type_ids: list[int]
    """0 for the text, 1 for its pair."""
    is_cut: bool
    """Whether the text was longer than the model takes."""


class Tokenizer:
    """The tokenizer of one model; any number of threads may use it.

    Args:
        path: the tokenizer.json.
        max_length: most tokens, those of the model's own that mark beginning and end included.
        keeps_end: a longer text loses its beginning: a prompt's end is what a model goes on from.

    Raises:
        ImportError: the library is not installed; the message names the extra.
        ValueError: the file is no tokenizer, or max_length leaves no room for text.
    """

    def __init__(self, path: Path, max_length: int, keeps_end: bool) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError("reading text needs tokenizers: pip install 'smartbatch[text]'") from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f"{path}: cannot be read as a tokenizer.json ({first_line(error)})") from error
        num_marks = self._tokenizer.num_special_tokens_to_add(True)
        if max_length < num_marks + 2:  # a token for the text, and one for its pair
            raise ValueError(
                f"max_length is {max_length}, of which {path.name} takes {num_marks} for marks of its own: "
                f"at least {num_marks + 2} are needed"
            )
        # Batches are padded by us, to what their items need, and not to what the file says.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, direction="left" if keeps_end else "right")
        self._max_chars = max_length * CHARS_PER_TOKEN
        self._keeps_end = keeps_end

    def encode(self, text: str, pair: str | None = None) -> Tokens:
        """Cut one text into tokens.

        Raises:
            ModelRejected: there is no token in it, or one that the tokenizer does not know and has no sign for.
        """
        cut = self._cut(text)
        cut_pair = None if pair is None else self._cut(pair)
        encoding = self._encode(cut, cut_pair)
        if not encoding.ids:
            raise ModelRejected("there is no token in this text; send some words")
        is_cut = bool(encoding.overflowing) or len(cut) < len(text) or len(cut_pair or "") < len(pair or "")
        return Tokens(encoding.ids, encoding.attention_mask, encoding.type_ids, is_cut)

    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for, without the model's own marks."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _cut(self, text: str) -> str:
        if len(text) <= self._max_chars:
            return text
        return text[-self._max_chars :] if self._keeps_end else text[: self._max_chars]

    def _encode(self, text: str, pair: str | None) -> Any:
        try:
            return self._tokenizer.encode(text, pair)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the library is no Exception, and would end the worker
            raise ModelRejected(f"the tokenizer does not take this text: {first_line(error)}") from None
