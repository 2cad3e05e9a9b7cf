"""Image bodies: JPEG, PNG and WebP to uint8 tensors of the size the model was trained on."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from smartbatch_worker.config import WorkerConfig
from smartbatch_worker.errors import BodyTooLarge, MalformedBody

# Pillow's own pixel limit warns or raises at a size of its choosing; max_pixels is checked before any decoding.
Image.MAX_IMAGE_PIXELS = None
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_ASPECT_RATIO = 50  # resizing a thin strip to 256 px high would multiply its length without bound
MAX_JPEG_SCANS = 64  # libjpeg writes 10; a few hundred bytes a scan can cost a full pass over the image each
USUAL_JPEG_SCANS = 12  # for the largest image accepted: libjpeg's ten, a thumbnail's, and one that is chance
_INTERPOLATION = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


def is_image(body: bytes | bytearray) -> bool:
    """Whether the magic bytes are those of JPEG, PNG or WebP."""
    head = bytes(body[:12])
    return (
        head[:3] == b"\xff\xd8\xff" or head[:8] == b"\x89PNG\r\n\x1a\n" or (head[:4] == b"RIFF" and head[8:] == b"WEBP")
    )


def decode_to_uint8(body: bytes | bytearray, config: WorkerConfig, num_channels: int) -> torch.Tensor:
    """Decode, resize the shorter side, crop the centre.

    Args:
        body: a whole JPEG, PNG or WebP file.
        config: its image_* fields and max_pixels.
        num_channels: 3 (RGB) or 1 (grey).

    Returns:
        uint8 [C, image_crop, image_crop], not yet scaled: the batch is normalised as a whole, later.

    Raises:
        MalformedBody: the file is corrupt or truncated.
        BodyTooLarge: more than max_pixels, or a strip thinner than 1:50, judged from the header alone.
    """
    num_scans = body.count(b"\xff\xda") if body[:2] == b"\xff\xd8" else 1
    if num_scans > MAX_JPEG_SCANS:
        raise MalformedBody(f"the JPEG has more than {MAX_JPEG_SCANS} scans")
    with _open(body) as image:
        _check_size(image.width, image.height, config.max_pixels)
        if num_scans * image.width * image.height > USUAL_JPEG_SCANS * config.max_pixels:
            raise BodyTooLarge(
                f"the JPEG takes {num_scans} passes over {image.width} x {image.height} pixels; at most "
                f"{USUAL_JPEG_SCANS} over {config.max_pixels} (max_pixels) are accepted"
            )
        try:
            pixels = np.array(image.convert("RGB" if num_channels == 3 else "L"))
        except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:
            message = f"the {image.format} image is corrupt or truncated: {str(error)[:200]}"
            raise MalformedBody(message) from None
    # [H, W, C] memory seen as [C, H, W]: channels last, which is the layout torch resizes uint8 fastest in.
    return _resize_and_crop(torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1), config)


def _open(body: bytes | bytearray) -> Image.Image:
    """Read the header; nothing is decoded."""
    try:
        return Image.open(io.BytesIO(body), formats=FORMATS)
    except UnidentifiedImageError:
        raise MalformedBody("the image header is corrupt; accepted are JPEG, PNG and WebP") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, OverflowError, TypeError) as error:
        raise MalformedBody(f"the image header is corrupt: {str(error)[:200]}") from None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BodyTooLarge(f"the image has {width} x {height} pixels; at most {max_pixels} are accepted (max_pixels)")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BodyTooLarge(f"the image is {width} x {height}; sides of at most 1:{MAX_ASPECT_RATIO} are accepted")


def _resize_and_crop(image: torch.Tensor, config: WorkerConfig) -> torch.Tensor:
    # The same two steps as torchvision's ImageClassification preset, on uint8, where they are native and exact.
    resized = transforms.resize(
        image, [config.image_resize], interpolation=_INTERPOLATION[config.image_interpolation], antialias=True
    )
    cropped: torch.Tensor = transforms.center_crop(resized, [config.image_crop, config.image_crop])
    return cropped
