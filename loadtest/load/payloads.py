"""Request bodies of every format the server reads, made from pictures or read from files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from smartbatch_worker.contract.media_types import BY_SUFFIX

from loadtest.load.images import Picture, load_pictures, seeded_pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """One body ready to be sent."""

    name: str
    """Unique among the payloads of a run: the key its expected answer is kept under."""
    body: bytes
    content_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How a picture becomes a body."""

    content_type: str
    encode: Callable[[Picture], bytes]


def encode_json(picture: Picture) -> bytes:
    """`{"data": [3, 224, 224]}` as JSON text, about 3 MB."""
    return json.dumps({"data": picture.normalised().tolist()}).encode()


def encode_msgpack(picture: Picture) -> bytes:
    """`{"data": [3, 224, 224]}` as msgpack, about 1.4 MB."""
    return msgspec.msgpack.encode({"data": picture.normalised().tolist()})


def encode_npy(array: npt.NDArray[Any]) -> bytes:
    """An array in numpy's own file format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


FORMATS: dict[str, Format] = {
    "json": Format(content_type="application/json", encode=encode_json),
    "jpeg": Format(content_type="image/jpeg", encode=lambda picture: picture.jpeg),
    "npy": Format(content_type="application/x-npy", encode=lambda picture: encode_npy(picture.pixels)),
    "npy-float": Format(content_type="application/x-npy", encode=lambda picture: encode_npy(picture.normalised())),
    "msgpack": Format(content_type="application/msgpack", encode=encode_msgpack),
}
"""`npy` is uint8 (150 kB), `npy-float` is float32 (600 kB)."""


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse a format that does not exist.

    Raises:
        ValueError: unknown or no format.
    """
    if not names:
        raise ValueError(f"at least one format is needed, of {', '.join(FORMATS)}")
    for name in names:
        if name not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return tuple(names)


def picture_payloads(format_name: str, *, images: Path | None, count: int, seed: int) -> list[Payload]:
    """Bodies of one format.

    Args:
        format_name: a key of `FORMATS`.
        images: folder of pictures; None makes seeded ones.
        count: pictures at most; a folder may hold fewer.
        seed: of the made pictures.
    """
    check_formats([format_name])
    pictures = load_pictures(images, count) if images else seeded_pictures(count, seed)
    spec = FORMATS[format_name]
    return [
        Payload(name=f"{format_name}:{p.name}", body=spec.encode(p), content_type=spec.content_type) for p in pictures
    ]


def file_payloads(paths: Sequence[Path]) -> list[Payload]:
    """Files sent as they are, for models that do not take pictures; the ending names the content type.

    Raises:
        ValueError: an ending no content type is known for.
    """
    payloads = []
    for path in paths:
        content_type = BY_SUFFIX.get(path.suffix.lower())
        if content_type is None:
            raise ValueError(f"a body must end in {', '.join(BY_SUFFIX)}, got {path}")
        payloads.append(Payload(name=f"file:{path}", body=path.read_bytes(), content_type=content_type))
    return payloads
