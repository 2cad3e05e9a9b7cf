"""A request that a model takes: the archive's own example, else one made up of what its worker says of its inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.description import as_description, told_example
from smartbatch_worker.contract.pictures import height_and_width
from smartbatch_worker.contract.shapes import concrete_shape

_IMAGE_SIZE, _FREE_SIZE = (224, 224), 8


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A body to send."""

    body: bytes
    content_type: str
    is_users: bool
    """The archive's example; not made up."""


def sample_request(described: object) -> SampleRequest | str:
    """A request for a model.

    Args:
        described: what its worker says of itself; another handler may say anything, or nothing.

    Returns:
        Or why there is none, to stand behind "no request:".
    """
    if (described := as_description(described)) is None:
        return "the handler does not say what it takes"
    if (example := told_example(described)) is not None:
        return SampleRequest(*example, is_users=True)
    made = made_up_data(described["config"])
    if made is not None:
        return SampleRequest(json.dumps(made).encode(), media_types.JSON, is_users=False)
    if (told := described.get("example")) is not None:
        return f"the archive's example is too large to ask a worker for ({told['num_bytes']} bytes)"
    named = "its inputs leave" if described["config"].get("inputs") else "its input_shape leaves"
    return f"{named} sizes open, and the archive has no example (`smartbatch archive --example FILE`)"


def made_up_data(config: Mapping[str, Any], image_side: int | None = None) -> dict[str, Any] | None:
    """`{"data": …}` or `{"inputs": {…}}` that fits the shapes; None where they leave sizes open.

    Numbers are 0.5, and 1 where they are whole: there is nearly always a row 1 to look up.

    Args:
        config: the handler's configuration, as a worker tells it.
        image_side: of pictures of any size; None is the size that the model is shown.
    """
    shown = (image_side, image_side) if image_side else height_and_width(config.get("image_crop")) or _IMAGE_SIZE
    named = config.get("inputs")
    if not isinstance(named, Mapping):
        shape = concrete_shape(config.get("input_shape"), shown, _FREE_SIZE)
        return None if shape is None else {"data": _filled(shape, 0.5)}
    lengths = config.get("lengths") or {}
    inputs = {}
    for name, spec in named.items():
        sizes = []
        for size in spec.get("shape", ()):
            if isinstance(size, str) and spec.get("pad") is not None:
                sizes.append(min([*lengths.get(size, []), _FREE_SIZE]))
            elif isinstance(size, int):
                sizes.append(size)
            elif spec.get("image"):
                sizes.append(shown[len(sizes) - 1])  # behind the channels
            else:
                return None
        dtype = str(spec.get("dtype", "float32"))
        inputs[str(name)] = _filled(sizes, True if dtype == "bool" else 0.5 if "float" in dtype else 1)
    return {"inputs": inputs}


def num_numbers(data: Any) -> int:
    """How many numbers a made-up body holds."""
    if isinstance(data, Mapping):
        return sum(map(num_numbers, data.values()))
    return sum(map(num_numbers, data)) if isinstance(data, list) else 1


def _filled(shape: Sequence[int], value: Any) -> Any:
    data = value
    for size in reversed(shape):
        data = [data] * size
    return data
