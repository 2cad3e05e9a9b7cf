"""Pictures in any of the formats to uint8 tensors of the size the model is shown.

A JPEG or PNG is first cut down to its picture, so what else its file holds (profiles, text, thumbnails, a film) is
never read. What was decoded is copied a band of rows at a time into the array that the model is shown: upright, over
the background, in 8 bits. That array and the decoder's own memory are all that a picture takes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import BodyTooLarge, MalformedBody
from smartbatch_worker.formats.byte_budget import ByteBudget
from smartbatch_worker.formats.images import exif, fit, jpeg_files, png_files, webp_files

# Pillow's own pixel limit warns or raises at a size of its choosing; max_pixels is checked before any decoding.
Image.MAX_IMAGE_PIXELS = None
MAX_ASPECT_RATIO = 50  # resizing a thin strip to 256 px high would multiply its length without bound
MAX_JPEG_SCANS = 64  # libjpeg writes 10; a few hundred bytes a scan can cost a full pass over the image each
USUAL_JPEG_SCANS = 12  # for the largest image accepted: libjpeg's ten and two
MAX_BYTES_PER_PIXEL = 8
"""Times max_pixels, what one picture may take while it is decoded, and all of a worker's pictures together."""

_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # a pixel in Pillow's memory; of all other modes 4
_WEBP_BYTES = 12  # two canvases of libwebp's decoder of animations, and the picture; while it decodes 4 more
_WEBP_PASSING_BYTES = 4
_BAND_PIXELS = 2**18
_CORRUPT = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, OverflowError)
# A 16-bit grey to the nearest of 8 bits: 65535 is 255, so a step is 257.
_TO_8_BITS = ((np.arange(2**16, dtype=np.uint32) + 128) // 257).astype(np.uint8)
_budget = ByteBudget()


_Opened = tuple[Image.Image, bytes, float, float]
"""A picture with nothing of it decoded, its EXIF block, and what decoding will take, in bytes a pixel: what is kept
until the picture is closed, and what is given back once it is decoded."""


def read_jpeg(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """A whole JPEG file, as `_read` has it."""
    return _read(_open_jpeg, body, config)


def read_png(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """A whole PNG file, as `_read` has it."""
    return _read(_open_png, body, config)


def read_webp(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """A whole WebP file, as `_read` has it."""
    return _read(_open_webp, body, config)


def _read(
    open_picture: Callable[[bytes | bytearray, WorkerConfig], _Opened], body: bytes | bytearray, config: WorkerConfig
) -> torch.Tensor:
    """Decode, turn upright, lay over the background, fit into the size that the model is shown.

    Args:
        open_picture: reads the headers of this format.
        body: a whole file of it.
        config: its image_* fields and max_pixels, for a model of images: image_mean has 3 numbers (RGB) or 1 (grey).

    Returns:
        uint8 [C, H, W], not yet scaled: the batch is normalised as a whole, later. H and W are `config.image_size`, or
        the picture's own.

    Raises:
        MalformedBody: the file is corrupt or truncated.
        BodyTooLarge: more than max_pixels, a strip thinner than 1:50, or a picture that takes too much memory or too
            many passes to decode, judged from the headers alone.
    """
    image, exif_block, kept_bytes, passing_bytes = open_picture(body, config)
    num_channels = len(config.image_mean)
    num_pixels = image.width * image.height
    num_bytes = round(num_pixels * (kept_bytes + max(passing_bytes, num_channels)))
    limit = MAX_BYTES_PER_PIXEL * config.max_pixels
    if num_bytes > limit:
        raise BodyTooLarge(
            f"this {image.format} image of {num_pixels} pixels takes {num_bytes} bytes to decode; at most {limit} "
            f"({MAX_BYTES_PER_PIXEL} x max_pixels) are accepted, which is enough for a baseline JPEG of max_pixels"
        )
    turn = exif.orientation(exif_block) if config.image_orientation == "exif" else exif.UPRIGHT
    with _budget.holding(num_bytes, limit):
        upright = _upright(image, turn, config.image_background, num_channels)
        del image  # its pixels are freed before the resize needs memory of its own
        return fit.fit(upright, config)


def _open_jpeg(body: bytes | bytearray, config: WorkerConfig) -> _Opened:
    jpeg = jpeg_files.read(body, MAX_JPEG_SCANS)
    image = _open("JPEG", jpeg.picture, config)
    if jpeg.num_scans * image.width * image.height > USUAL_JPEG_SCANS * config.max_pixels:
        raise BodyTooLarge(
            f"the JPEG takes {jpeg.num_scans} passes over {image.width} x {image.height} pixels; at most "
            f"{USUAL_JPEG_SCANS} over {config.max_pixels} (max_pixels) are accepted"
        )
    return image, jpeg.exif, _pillow_bytes(image), jpeg.coefficient_bytes_per_pixel


def _open_png(body: bytes | bytearray, config: WorkerConfig) -> _Opened:
    png = png_files.read(body)
    image = _open("PNG", png.picture, config)
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and png_files.bit_depth(png.picture) == 16:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)  # as Pillow reads the pixels
    elif isinstance(transparent, int) and image.mode == "L":
        # Pillow spreads 1, 2 and 4 bits over 0 to 255, but not the one value of them that is transparent.
        image.info["transparency"] = transparent * 255 // (2 ** png_files.bit_depth(png.picture) - 1) & 255
    return image, png.exif, _pillow_bytes(image), 0


def _open_webp(body: bytes | bytearray, config: WorkerConfig) -> _Opened:
    webp = webp_files.read(body)
    _check_size(*webp.size, config.max_pixels)  # before Pillow makes two canvases of that size
    return _open("WEBP", body, config), webp.exif, _WEBP_BYTES, _WEBP_PASSING_BYTES


def _open(kind: str, picture: bytes | bytearray, config: WorkerConfig) -> Image.Image:
    """Read the header and check the size it tells; nothing is decoded."""
    try:
        image = Image.open(io.BytesIO(picture), formats=[kind])
    except UnidentifiedImageError:
        raise MalformedBody("the image header is corrupt; accepted are JPEG, PNG and WebP") from None
    except (*_CORRUPT, MemoryError) as error:  # out of memory for what a corrupt header declares
        raise MalformedBody(f"the image header is corrupt: {str(error)[:200]}") from None
    _check_size(image.width, image.height, config.max_pixels)
    return image


def _pillow_bytes(image: Image.Image) -> int:
    return _PILLOW_BYTES.get(image.mode, 4)


def _upright(image: Image.Image, turn: int, background: tuple[int, ...], num_channels: int) -> torch.Tensor:
    """All pixels as people see them: uint8 [C, H, W], channels last in memory, which torch resizes uint8 fastest in."""
    width, height = image.size
    sides = (width, height) if exif.swaps_sides(turn) else (height, width)
    num_rows = max(1, _BAND_PIXELS // width)
    try:
        image.load()
        upright = np.empty((*sides, num_channels), dtype=np.uint8)  # where the decoder's own memory was, now it is free
        rows = exif.as_stored(upright, turn)
        for top in range(0, height, num_rows):
            bottom = min(top + num_rows, height)
            band = image if num_rows >= height else image.crop((0, top, width, bottom))
            rows[top:bottom] = _over(background, band, num_channels)
    except _CORRUPT as error:
        raise MalformedBody(f"the {image.format} image is corrupt or truncated: {str(error)[:200]}") from None
    return torch.from_numpy(upright).permute(2, 0, 1)


def _over(background: tuple[int, ...], band: Image.Image, num_channels: int) -> np.ndarray[Any, Any]:
    """uint8 [rows, width, num_channels] of a band in any of Pillow's modes, transparent pixels over the background."""
    opacity: Image.Image | None = None
    if band.mode == "I;16":
        greys = np.asarray(band)
        if (transparent := band.info.get("transparency")) is not None:
            opacity = Image.fromarray(np.where(greys == transparent, np.uint8(0), np.uint8(255)))
        band = Image.fromarray(_TO_8_BITS[greys])
    elif band.has_transparency_data:
        band = band.convert("RGBA")
        opacity = band.getchannel("A")
    mode = "RGB" if num_channels == 3 else "L"
    if opacity is not None:
        shown = Image.new("RGB", band.size, background)
        shown.paste(band.convert("RGB"), mask=opacity)
        band = shown
    if band.mode != mode:
        band = band.convert(mode)
    return np.asarray(band).reshape(band.height, band.width, num_channels)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BodyTooLarge(f"the image has {width} x {height} pixels; at most {max_pixels} are accepted (max_pixels)")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BodyTooLarge(f"the image is {width} x {height}; sides of at most 1:{MAX_ASPECT_RATIO} are accepted")
