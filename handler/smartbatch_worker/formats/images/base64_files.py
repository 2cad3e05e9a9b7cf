"""Pictures within JSON: a file of any format in base64, as TorchServe's and KServe's clients write it."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import simdjson
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import MalformedBody, UnknownFormat
from smartbatch_worker.formats.images import jpeg_files, pictures, png_files, webp_files

_READERS = (
    (jpeg_files.begins, pictures.read_jpeg),
    (png_files.begins, pictures.read_png),
    (webp_files.begins, pictures.read_webp),
)
KEYS = frozenset(("b64", "data", "body", "image_bytes"))
"""Under which an item has its picture: KServe's, TorchServe's two, TensorFlow's."""


def text_in(entry: Any) -> str | None:
    """The base64 text in what stands for an item; None where it is something else, as lists of numbers are.

    Args:
        entry: of simdjson's: the text itself, {"b64": text}, or one of these under "data", "body" or "image_bytes".
    """
    for _ in range(2):
        if isinstance(entry, str):
            return entry
        if not isinstance(entry, simdjson.Object):
            return None
        entry = next((entry[key] for key in sorted(KEYS) if key in entry), None)
    return entry if isinstance(entry, str) else None


def read(text: str, config: WorkerConfig, told: str) -> torch.Tensor:
    """As a request with the picture's file as its body would be read.

    Args:
        text: base64, with or without the `data:` address that browsers put before it.
        config: of a model of images.
        told: where it stands, for messages.

    Raises:
        MalformedBody: it is no base64, or a corrupt file.
        UnknownFormat: it is no picture of a format that is read.
        BodyTooLarge: as for a picture of its own.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        file = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedBody(f"{told}: got text that is not base64") from None
    for begins, read_picture in _READERS:
        if begins(file):
            return read_picture(file, config)
    raise UnknownFormat(f"{told}: got text in base64 that holds no JPEG, PNG or WebP")
