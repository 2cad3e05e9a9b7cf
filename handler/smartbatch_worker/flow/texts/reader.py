"""A body of text to the items of its row: what the tokenizer makes of each text, under the model's own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from smartbatch_worker import formats
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.open_inference import TEXT, TEXT_PAIR
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.flow import decode, inputs
from smartbatch_worker.flow.decode import Decoded
from smartbatch_worker.flow.inputs import Inputs
from smartbatch_worker.formats.texts import bodies
from smartbatch_worker.formats.texts.tokenizer import Tokenizer, Tokens

MAKES: Mapping[str, Callable[[Tokens], list[int]]] = {
    "input_ids": lambda tokens: tokens.ids,
    "attention_mask": lambda tokens: tokens.attention_mask,
    "token_type_ids": lambda tokens: tokens.type_ids,
}
"""What is made of a text, by the names that models have for it."""
_ACCEPTED = f'JSON {{"text": "..."}}, {media_types.TEXT}, {formats.ACCEPTED}'


class TextReader:
    """Reads the bodies of text that one model is sent.

    Args:
        model_dir: the unpacked archive.
        config: names the tokenizer in it, and the model's inputs.

    Raises:
        ValueError: the tokenizer cannot be used, or the model has an input that no tokenizer makes.
    """

    def __init__(self, model_dir: Path, config: WorkerConfig) -> None:
        assert config.tokenizer is not None
        self._config = config
        self._tokenizer = Tokenizer(model_dir / config.tokenizer, config.max_length, _keeps_end(config))
        self._inputs = _inputs_of(config)

    @classmethod
    def of(cls, model_dir: Path, config: WorkerConfig) -> TextReader | None:
        """None where the archive has no tokenizer."""
        return None if config.tokenizer is None else cls(model_dir, config)

    def read(self, body: bytes | bytearray, content_type: str) -> Decoded | None:
        """The items of a body of text, one a text; None where the body is of another format.

        Raises:
            RowError: with what was wrong and what is accepted.
        """
        if len(body) == 0:
            raise MalformedBody(f"the body is empty; accepted are {_ACCEPTED}")
        asked = None
        if formats.media_type_of(content_type) == media_types.OPEN_INFERENCE:
            request = formats.read_open_inference(body, content_type, self._config)
            if not request.texts:
                return decode.decode_request(request, self._config)
            found: bodies.Texts | None = bodies.Texts(request.texts[TEXT], request.texts.get(TEXT_PAIR), True)
            asked = request.asked
        else:
            found = bodies.read(body, content_type, self._config.max_items)
        if found is None:
            if formats.recognise(body, content_type) is None:
                raise formats.unknown(body, content_type, _ACCEPTED)
            return None
        pairs: Sequence[str | None] = found.pairs or [None] * len(found.texts)
        tokens = [self._tokenizer.encode(text, pair) for text, pair in zip(found.texts, pairs, strict=True)]
        items = [self._item(of_one) for of_one in tokens]
        return Decoded(
            items, False, found.is_list, is_text=True, num_truncated=sum(one.is_cut for one in tokens), asked=asked
        )

    def spell(self, ids: torch.Tensor) -> str:
        """The text of a model's answer in tokens, [T]."""
        return self._tokenizer.decode(ids.tolist())

    def _item(self, tokens: Tokens) -> Inputs:
        if self._inputs is None:
            return torch.tensor(tokens.ids, dtype=torch.float32)
        made = {name: torch.tensor(MAKES[what](tokens)) for name, what in self._inputs.items()}
        return inputs.checked(made, self._config)


def _inputs_of(config: WorkerConfig) -> dict[str, str] | None:
    """What is made for each input, by its name; None for the one unnamed input, which takes the ids."""
    if config.inputs is None:
        return None
    names = [spec.name for spec in config.inputs]
    made = ["input_ids"] if len(names) == 1 else names  # whatever one input is called, it takes the ids
    unknown = [name for name in made if name not in MAKES]
    if unknown:
        raise ValueError(
            f"inputs has {', '.join(unknown)}, which no tokenizer makes of a text; it makes {', '.join(MAKES)}"
        )
    return dict(zip(names, made, strict=True))


def _keeps_end(config: WorkerConfig) -> bool:
    """A model that goes on from its input wants its end, and is padded on the left for the same reason."""
    return any(spec.pad_side == "left" for spec in config.inputs or ())
