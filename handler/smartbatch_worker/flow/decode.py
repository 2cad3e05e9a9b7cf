"""One body to the items of its row: recognise the format, read it, check it against the model's input shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import BodyTooLarge, MalformedBody, UnknownFormat, WrongShape
from smartbatch_worker.formats import tensors
from smartbatch_worker.formats.images import decode as images

ACCEPTED = (
    'JSON {"data": [...]}, JPEG, PNG, WebP, .npy, application/x-safetensors (tensor "data"), '
    'application/msgpack {"data": ...}'
)
_JSON_TYPES = ("application/json", "text/json")
_MSGPACK_TYPES = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")


@dataclass(frozen=True, slots=True)
class Decoded:
    """The items of one row, each without a batch dimension, float32 or (to be normalised) uint8."""

    items: list[torch.Tensor]
    is_image: bool
    has_batch_dim: bool
    """Whether the client sent N items in one tensor, and so gets a list of N answers."""


def decode(body: bytes | bytearray, content_type: str, config: WorkerConfig) -> Decoded:
    """Turn one request body into items.

    Args:
        body: the raw bytes.
        content_type: the request's Content-Type, lower case, or "".
        config: shape, limits and image preset of this model.

    Raises:
        RowError: with what was wrong and what is accepted.
    """
    if len(body) == 0:
        raise MalformedBody(f"the body is empty; accepted are {ACCEPTED}")
    if images.is_image(body):
        return Decoded([images.decode_to_uint8(body, config, _image_channels(config))], True, False)
    tensor = _read_tensor(body, content_type.partition(";")[0].strip(), config.max_elements)
    if config.nonfinite == "error":
        tensors.require_finite(tensor)
    items, has_batch_dim = _split_items(tensor, config)
    return Decoded(items, False, has_batch_dim)


def normalises_uint8(config: WorkerConfig) -> bool:
    """Whether uint8 tensors are images for this model: [C, H, W] with a mean and deviation for each of C channels."""
    shape = config.input_shape
    return shape is not None and len(shape) == 3 and shape[0] == len(config.image_mean)


def _read_tensor(body: bytes | bytearray, media_type: str, max_elements: int) -> torch.Tensor:
    if body[:6] == b"\x93NUMPY":
        return tensors.from_npy(body, max_elements)
    if media_type == "application/x-safetensors":
        return tensors.from_safetensors(body, max_elements)
    if media_type in _MSGPACK_TYPES:
        return tensors.from_msgpack(body, max_elements)
    if media_type in _JSON_TYPES or body[:64].lstrip()[:1] in (b"{", b"["):
        return tensors.from_json(body, max_elements)
    raise UnknownFormat(f"unknown body format (Content-Type {media_type or 'not given'!r}); accepted are {ACCEPTED}")


def _image_channels(config: WorkerConfig) -> int:
    if normalises_uint8(config) and len(config.image_mean) in (1, 3):
        return len(config.image_mean)
    raise UnknownFormat(
        f"this model takes tensors of shape {describe_shape(config)}, not images; "
        "images need input_shape [3, H, W] or [1, H, W] and as many numbers in image_mean"
    )


def _split_items(tensor: torch.Tensor, config: WorkerConfig) -> tuple[list[torch.Tensor], bool]:
    """One tensor to items: itself, its rows, or a 2-D plane repeated over the channels."""
    if tensor.numel() == 0:
        raise WrongShape(f"the tensor is empty (shape {list(tensor.shape)}); accepted is {describe_shape(config)}")
    expected = config.input_shape
    if expected is None:
        return [tensor], False
    num_dims = len(expected)
    if tensor.dtype == torch.uint8 and num_dims == 3 and tensor.ndim in (3, 4):
        tensor = _channels_first(tensor, expected[0])
    if tensor.dtype == torch.uint8 and not normalises_uint8(config):
        tensor = tensor.to(torch.float32)
    if num_dims == 3 and tensor.ndim == 2:
        # A single plane: the original's {"data": [[...]]}. A view, repeated only when stacked.
        tensor = tensor.unsqueeze(0).expand(expected[0] or 3, *tensor.shape)
    if tensor.ndim == num_dims + 1:
        if tensor.shape[0] > config.max_items:
            raise BodyTooLarge(
                f"the request has {tensor.shape[0]} items; at most {config.max_items} are accepted (max_items)"
            )
        items, has_batch_dim = list(tensor.unbind(0)), True
    else:
        items, has_batch_dim = [tensor], False
    shape = items[0].shape
    if len(shape) != num_dims or any(d is not None and d != s for d, s in zip(expected, shape, strict=True)):
        raise WrongShape(
            f"the model takes items of shape {describe_shape(config)}, alone or N of them; got {list(tensor.shape)}"
        )
    return items, has_batch_dim


def _channels_first(tensor: torch.Tensor, num_channels: int | None) -> torch.Tensor:
    """Accept [H, W, C] pixels, as image libraries hold them, where they can't be mistaken for [C, H, W]."""
    if num_channels is not None and tensor.shape[-3] != num_channels and tensor.shape[-1] == num_channels:
        return tensor.movedim(-1, -3)
    return tensor


def describe_shape(config: WorkerConfig) -> str:
    """Spell the input shape for a message, free dimensions as `*`."""
    if config.input_shape is None:
        return "any"
    return "[" + ", ".join("*" if d is None else str(d) for d in config.input_shape) + "]"
