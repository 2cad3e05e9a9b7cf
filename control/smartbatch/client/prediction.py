"""An answer, and what one makes of it: JSON, arrays, classes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.headers import BATCH_SIZE, FORWARD_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENVELOPES = ("result", "predictions")
"""The one key that an answer in JSON stands behind, unless the server's `envelope` is `bare`."""
RESULT = "result"
"""What a model's only tensor is called."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class that the model thinks of, and how much."""

    label: str
    index: int
    score: float
    """0 to 1: softmax over all classes."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer."""

    content: bytes
    headers: Mapping[str, str]
    attempts: int
    """Requests it took: 1, plus one for each retry."""
    seconds: float
    """From the first attempt to the answer."""
    url: str = ""
    """Of the server that answered."""

    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.content)

    @property
    def result(self) -> Any:
        """The parsed body, out of its envelope: what stands behind `result` or `predictions`."""
        parsed = self.json()
        if isinstance(parsed, dict) and len(parsed) == 1:
            (key,) = parsed
            return parsed[key] if key in ENVELOPES else parsed
        return parsed

    def array(self) -> NDArray[Any]:
        """The only tensor of the answer: of one item in the model's own shape, of N items `[N, ...]`.

        Raises:
            ValueError: it has several, or is not made of numbers.
        """
        found = self.arrays()
        if len(found) != 1:
            raise ValueError(f"the answer has {len(found)} tensors ({', '.join(found)}): use arrays()")
        return next(iter(found.values()))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All tensors of the answer, by name; an only one without a name is `result`.

        Of .npy, .npz and safetensors (`accept=`) each keeps its dtype; numbers of JSON are float64, int64 or bool.

        Raises:
            ValueError: it is not made of numbers, or of a form that numpy has not (safetensors' bf16).
        """
        import numpy as np

        match self.media_type:
            case media_types.NPY:
                return {RESULT: np.load(io.BytesIO(self.content), allow_pickle=False)}
            case media_types.NPZ:
                with np.load(io.BytesIO(self.content), allow_pickle=False) as file:
                    return dict(file)
            case media_types.SAFETENSORS:
                return _of_safetensors(self.content)
        value = self.result
        if isinstance(value, dict) and not _is_class(value):
            return {name: _numbers(part) for name, part in value.items()}
        return {RESULT: _numbers(value)}

    def classes(self) -> list[ClassScore]:
        """What a classifier answers of one item (`topk`, `labels`), best first.

        Raises:
            ValueError: the answer is of N items, or of something else than classes.
        """
        value = self.result
        found = [value] if isinstance(value, dict) else value
        if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
            found = found[0]  # of N items, which are one
        if isinstance(found, list) and found and all(_is_class(each) for each in found):
            return [ClassScore(each["label"], each["index"], each["score"]) for each in found]
        if isinstance(found, list) and found and all(isinstance(each, list) for each in found):
            raise ValueError(f"the answer is of {len(found)} items: use result, or send them one by one (map)")
        raise ValueError(f"the answer is not of classes (ask for output='topk'): {_shown(self.content)}")

    @property
    def media_type(self) -> str:
        """What the body is, as the server says: `application/json` and so on, without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def batch_size(self) -> int | None:
        """How many requests shared the batch; None from a handler that does not say."""
        return self._number(BATCH_SIZE)

    @property
    def forward_size(self) -> int | None:
        """How many items shared the forward; None from a handler that does not say."""
        return self._number(FORWARD_SIZE)

    def _number(self, header: str) -> int | None:
        text = self.headers.get(header)
        return None if text is None else int(text)


def _is_class(value: Any) -> bool:
    return isinstance(value, dict) and {"label", "index", "score"} <= value.keys()


def _numbers(value: Any) -> NDArray[Any]:
    import numpy as np

    try:
        array: np.ndarray[Any, Any] = np.asarray(value)
    except ValueError as e:
        raise ValueError(f"the answer's items have several shapes ({e}): use result") from e
    if array.dtype.kind not in "biufc":
        raise ValueError(f"the answer is not made of numbers: {_shown(json.dumps(value).encode())}")
    return array


def _of_safetensors(content: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except (SafetensorError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"numpy cannot hold the answer ({e}): read `content` with safetensors.torch.load") from e


def _shown(content: bytes) -> str:
    text = content.decode(errors="replace")
    return text if len(text) <= 100 else f"{text[:100]}…"
