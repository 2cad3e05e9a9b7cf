"""Request bodies of every format the server reads, made from pictures or read from files.

The command line reads the table before it does anything: what is slow to import is imported where it is used.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartbatch_worker.contract import media_types, open_inference

if TYPE_CHECKING:
    from smartbatch_load.load.images import Picture

FILE = "file"
"""What stands for a format where files are sent as they are."""


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
    remark: str = ""
    """What its name does not say."""


def encode_json(picture: Picture) -> bytes:
    """`{"data": [3, 224, 224]}` as JSON text, about 3 MB."""
    return json.dumps({"data": picture.normalised().tolist()}).encode()


def encode_msgpack(picture: Picture) -> bytes:
    """`{"data": [3, 224, 224]}` as msgpack, about 1.4 MB."""
    import msgspec

    return msgspec.msgpack.encode({"data": picture.normalised().tolist()})


OPEN_INFERENCE_JSON_BYTES = 256


def encode_open_inference(picture: Picture) -> bytes:
    """`[1, 3, 224, 224]` as the Open Inference Protocol's binary tensor, its JSON brought to a length known here."""
    numbers = picture.normalised().tobytes()
    given = {
        "name": open_inference.INPUT,
        "shape": [1, *picture.normalised().shape],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(numbers)},
    }
    return json.dumps({"inputs": [given]}).encode().ljust(OPEN_INFERENCE_JSON_BYTES) + numbers


FORMATS: dict[str, Format] = {
    "json": Format(content_type=media_types.JSON, encode=encode_json),
    "jpeg": Format(content_type=media_types.JPEG, encode=lambda picture: picture.jpeg),
    "npy": Format(content_type=media_types.NPY, encode=lambda picture: picture.npy(), remark="uint8"),
    "npy-float": Format(content_type=media_types.NPY, encode=lambda picture: picture.npy(normalised=True)),
    "msgpack": Format(content_type=media_types.MSGPACK, encode=encode_msgpack),
    "open-inference": Format(
        content_type=f"{media_types.OPEN_INFERENCE}; json={OPEN_INFERENCE_JSON_BYTES}", encode=encode_open_inference
    ),
}
"""`npy` is uint8 (150 kB), `npy-float` and `open-inference` are float32 (600 kB).

`--help` and the Locust users follow from the rows.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadSettings:
    """What a load test sends: pictures in one or more formats, or files as they are.

    Raises:
        ValueError: unknown or no format, or no picture.
    """

    formats: tuple[str, ...] = ("jpeg",)
    """Keys of `FORMATS`, mixed evenly; of no account where files are sent."""
    images: Path | None = None
    """Folder of pictures; None makes seeded ones."""
    bodies: tuple[Path, ...] = ()
    """Files sent as they are instead of pictures, in turn; of a folder, its files."""
    num_images: int = 8
    """Different pictures at most; a folder may hold fewer."""
    seed: int = 0
    """Of the made pictures."""
    is_default: bool = field(default=False, compare=False)
    """Nobody asked for pictures: what the model takes may be sent instead."""

    def __post_init__(self) -> None:
        check_formats(self.formats)
        if self.num_images < 1:
            raise ValueError(f"at least one picture is needed, got {self.num_images}")

    @property
    def sources(self) -> tuple[str, ...]:
        """What is sent: the formats, or "file"."""
        return (FILE,) if self.bodies else self.formats

    def only(self, source: str) -> PayloadSettings:
        """The same with one of its sources."""
        return self if self.bodies else replace(self, formats=(source,))

    def read(self, source: str) -> list[Payload]:
        """The bodies of a source."""
        if source == FILE:
            return file_payloads(self.bodies)
        return picture_payloads(source, images=self.images, count=self.num_images, seed=self.seed)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "formats": self.formats,
            "images": None if self.images is None else str(self.images),
            "bodies": tuple(str(path) for path in self.bodies),
            "num_images": self.num_images,
            "seed": self.seed,
        }


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
    from smartbatch_load.load.images import load_pictures, seeded_pictures

    check_formats([format_name])
    pictures = load_pictures(images, count) if images else seeded_pictures(count, seed)
    spec = FORMATS[format_name]
    return [
        Payload(name=f"{format_name}:{p.name}", body=spec.encode(p), content_type=spec.content_type) for p in pictures
    ]


def file_payloads(paths: Sequence[Path]) -> list[Payload]:
    """Files sent as they are, for models that do not take pictures; the ending names the content type.

    Args:
        paths: files, and folders whose files are meant, in the order of their names.

    Raises:
        ValueError: there is no such file, or none in a folder.
    """
    return [
        Payload(name=f"{FILE}:{path}", body=path.read_bytes(), content_type=_type_of(path)) for path in _files(paths)
    ]


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path
            continue
        if not path.is_dir():
            raise ValueError(f"--body must be a file or a folder, got {str(path)!r}")
        inside = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        if not inside:
            raise ValueError(f"--body: there is no file in {str(path)!r}")
        yield from inside


def _type_of(path: Path) -> str:
    """Of what only a handler of the user's own reads, what the system says."""
    known = media_types.of_file(path.name)
    return mimetypes.guess_type(path.name)[0] or known if known == media_types.ANY else known
