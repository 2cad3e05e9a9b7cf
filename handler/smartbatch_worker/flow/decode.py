"""One body to the items of its row: recognise the format, read it, check it against the model's input shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from smartbatch_worker import formats
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import describe_inputs
from smartbatch_worker.errors import MalformedBody, UnknownFormat, WrongShape
from smartbatch_worker.flow import inputs
from smartbatch_worker.flow.inputs import Inputs
from smartbatch_worker.formats.limits import check_num_items, to_float32
from smartbatch_worker.formats.open_inference.asked import Asked


@dataclass(frozen=True, slots=True)
class Decoded:
    """The items of one row, each without a batch dimension: float32 or (to be normalised) uint8, or named inputs."""

    items: Sequence[Inputs]
    is_image: bool
    has_batch_dim: bool
    """Whether the client sent N items in one tensor, and so gets a list of N answers."""
    is_instances: bool = False
    """Whether it did so as `{"instances": […]}`, and so gets `{"predictions": […]}`."""
    is_text: bool = False
    """Made of text, so that scores are answered as classes, as of an image."""
    num_truncated: int = 0
    """Of the texts, how many were longer than the model takes and have been cut."""
    asked: Asked | None = None
    """What the answer is to have, if it is to be in the Open Inference Protocol."""


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
        raise MalformedBody(f"the body is empty; accepted are {formats.ACCEPTED}")
    found = formats.recognise(body, content_type)
    if found is None:
        raise formats.unknown(body, content_type)
    if found.read_request is not None:
        return decode_request(found.read_request(body, content_type, config), config)
    if config.inputs is not None:
        return _decode_named(found, body, config)
    assert found.read is not None
    if found.is_image:
        _check_takes_images(config)
        return Decoded([found.read(body, config)], True, False)
    tensor = (found.read_items or found.read)(body, config)
    if isinstance(tensor, formats.Items):
        return _decode_items(tensor, config)
    return _decode_tensor(tensor, config)


def decode_request(request: formats.Request, config: WorkerConfig) -> Decoded:
    """The items of a request that says by itself how to answer; of one with texts, flow/texts/ makes them."""
    assert not request.texts
    if config.inputs is None:
        (tensor,) = request.inputs.values()
        return _decode_tensor(to_float32(tensor), config, request.asked)
    items, has_batch_dim = inputs.items_of(request.inputs, config)
    return Decoded(items, False, has_batch_dim, asked=request.asked)


def _decode_tensor(tensor: torch.Tensor, config: WorkerConfig, asked: Asked | None = None) -> Decoded:
    if config.nonfinite == "error":
        _check_finite(tensor)
    items, has_batch_dim = _split_items(tensor, config)
    return Decoded(items, False, has_batch_dim, asked=asked)


def _decode_named(found: formats.Format, body: bytes | bytearray, config: WorkerConfig) -> Decoded:
    specs = config.inputs or ()
    if found.read_named is not None:
        content = found.read_named(body, config)
        if isinstance(content, formats.Items):
            return Decoded(inputs.items_of(content.items, config)[0], content.is_image, True, content.is_instances)
        items, has_batch_dim = inputs.items_of(content, config)
        return Decoded(items, False, has_batch_dim)
    if len(specs) != 1 or (found.is_image and not specs[0].image):
        kind = "picture" if found.is_image else "tensor"
        raise UnknownFormat(
            f"{found.told} is one {kind}; the model takes {describe_inputs(specs)}: "
            'send {"inputs": {…}}, safetensors or .npz'
        )
    assert found.read is not None
    items, has_batch_dim = inputs.items_of({specs[0].name: found.read(body, config)}, config)
    return Decoded(items, found.is_image, has_batch_dim)


def _decode_items(given: formats.Items, config: WorkerConfig) -> Decoded:
    items: list[torch.Tensor] = []
    for item in given.items:
        if item.dtype == torch.uint8:  # a picture's file, of the size that the model is shown
            items.append(item)
            continue
        if config.nonfinite == "error":
            _check_finite(item)
        its_items, has_batch_dim = _split_items(item, config)
        if has_batch_dim:
            raise WrongShape(f"each of the instances is one item of {describe_shape(config)}; got {list(item.shape)}")
        items += its_items
    return Decoded(items, given.is_image, given.is_instances, given.is_instances)


def normalises_uint8(config: WorkerConfig) -> bool:
    """Whether uint8 tensors are images for this model: [C, H, W] with a mean and deviation for each of C channels."""
    shape = config.input_shape
    return shape is not None and len(shape) == 3 and shape[0] == len(config.image_mean)


def prepare(config: WorkerConfig) -> None:
    """Import now what pictures and sounds need, where the model takes any."""
    if config.takes_pictures:
        formats.prepare_pictures()
    formats.prepare_sounds(config)


def _check_takes_images(config: WorkerConfig) -> None:
    if not config.takes_pictures:
        raise UnknownFormat(
            f"this model takes tensors of shape {describe_shape(config)}, not images; "
            "images need input_shape [3, H, W] or [1, H, W] and as many numbers in image_mean"
        )


def _check_finite(tensor: torch.Tensor) -> None:
    """Refuse NaN and infinity (also numbers that overflow float32)."""
    # NumPy, not torch: a few hundred kB are not worth waking torch's thread pool for.
    if tensor.is_floating_point() and not np.isfinite(tensor.numpy()).all():
        raise WrongShape("the tensor holds NaN, infinity or numbers beyond float32; send finite numbers")


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
        check_num_items(tensor.shape[0], config.max_items)
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
