"""JPEG files read on a GPU: the usual ones, many at once; all others are left to the CPU.

What is not usual (progressive, CMYK, cut short …), larger than MAX_PIXELS or refused by the GPU's decoder is read as
ever, so that every answer and every error is the one that a worker without a GPU gives. Pixels differ a little: the
two decoders round, and spread the coarser colours, in ways of their own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.formats.images import exif, fit_together, jpeg_files
from smartbatch_worker.formats.images.pictures import MAX_ASPECT_RATIO, MAX_JPEG_SCANS

logger = logging.getLogger(__name__)

MAX_PIXELS = 2**24
"""Of one picture; what is larger takes the GPU's memory from the model for a gain that is small."""
MAX_PIXELS_AT_ONCE = 2**24
"""Of pictures decoded together: 48 MiB of RGB, and up to 600 as they are resized."""


@dataclass(frozen=True, slots=True)
class UsualJpeg:
    """A file that the GPU may read."""

    file: torch.Tensor
    """uint8 [bytes], on the host."""
    turn: int
    """As `exif.orientation` has it."""
    num_pixels: int


def open_usual(body: bytes | bytearray, config: WorkerConfig) -> UsualJpeg | None:
    """What of a body the GPU is to read; None where it is no JPEG, or one to be read, or refused, on the CPU."""
    if not jpeg_files.begins(body):
        return None
    jpeg = jpeg_files.read(body, MAX_JPEG_SCANS)
    width, height = jpeg.size
    is_thin = max(width, height) > MAX_ASPECT_RATIO * min(width, height)
    if not jpeg.is_usual or is_thin or not 0 < width * height <= min(MAX_PIXELS, config.max_pixels):
        return None
    turn = exif.orientation(jpeg.exif) if config.image_orientation == "exif" else exif.UPRIGHT
    return UsualJpeg(torch.frombuffer(bytearray(jpeg.picture), dtype=torch.uint8), turn, width * height)


def read(jpegs: Sequence[UsualJpeg], config: WorkerConfig, device: torch.device) -> list[torch.Tensor | None]:
    """Decode, turn upright and fit, on the device.

    Args:
        jpegs: in order.
        config: its image_* fields.
        device: a GPU.

    Returns:
        uint8 [3, H, W] on the device, one a file; None for one that the device does not read.
    """
    read: list[torch.Tensor | None] = []
    for part in _parts(jpegs):
        decoded = _decoded(part, device)
        whole = [_upright(pixels, jpeg.turn) for jpeg, pixels in zip(part, decoded, strict=True) if pixels is not None]
        fitted = iter(fit_together.fit_all(whole, config))
        read += [None if pixels is None else next(fitted) for pixels in decoded]
    return read


def _parts(jpegs: Sequence[UsualJpeg]) -> Iterator[list[UsualJpeg]]:
    """Those that are decoded together."""
    part: list[UsualJpeg] = []
    num_pixels = 0
    for jpeg in jpegs:
        if part and num_pixels + jpeg.num_pixels > MAX_PIXELS_AT_ONCE:
            yield part
            part, num_pixels = [], 0
        part.append(jpeg)
        num_pixels += jpeg.num_pixels
    if part:
        yield part


def _decoded(jpegs: Sequence[UsualJpeg], device: torch.device) -> Sequence[torch.Tensor | None]:
    """uint8 [3, H, W] of each; one that the decoder refuses costs the others a second try, and only itself the GPU."""
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        with warnings.catch_warnings():  # torchvision means to give its decoders to another package one day
            warnings.simplefilter("ignore")
            decoded: list[torch.Tensor] = decode_jpeg(
                [jpeg.file for jpeg in jpegs], mode=ImageReadMode.RGB, device=device
            )
            return decoded
    except RuntimeError as error:
        if len(jpegs) == 1:
            logger.info("a JPEG is left to the CPU: %s", str(error).splitlines()[0][:200])
            return [None]
    middle = len(jpegs) // 2
    return [*_decoded(jpegs[:middle], device), *_decoded(jpegs[middle:], device)]


def _upright(pixels: torch.Tensor, turn: int) -> torch.Tensor:
    """[C, H, W] as people see it, of one whose rows and columns stand as in the file; `exif.as_stored` turned round."""
    flipped = [axis for axis, turns in ((1, (3, 4, 6, 7)), (2, (2, 3, 7, 8))) if turn in turns]
    pixels = pixels.flip(flipped) if flipped else pixels
    return pixels.transpose(1, 2) if exif.swaps_sides(turn) else pixels
