"""Body formats: one file each, and one table of them; how to add one stands in CONTRIBUTING.md.

A reader turns one whole body into one tensor, or one for each named input of the model; of model and request it knows
the settings only. This room imports from kernels, contract and errors. From elsewhere:
`recognise`, `ACCEPTED`, `unknown`, `prepare_pictures` and `prepare_sounds` are what `flow/decode.py` asks,
`open_usual_jpeg` and `read_on_gpu` what `flow/decoder_pool.py` does, `read_open_inference` what `flow/texts/` does,
`FORMATS` is what tests and fuzz targets follow from, `texts` what `flow/texts/` makes items of, and `content_encoding`
undoes a body's compression before any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import UnknownFormat
from smartbatch_worker.formats import foreign, json_inputs, json_lists, msgpack_lists, npy, npz, safetensors_bodies
from smartbatch_worker.formats.audio import flac_files, sounds, wav_files
from smartbatch_worker.formats.images import fit, gpu_jpegs, jpeg_files, pictures, png_files, webp_files
from smartbatch_worker.formats.open_inference import request

Body = bytes | bytearray
Items = json_lists.Items
Request = request.Request
Named = dict[str, torch.Tensor]
"""Tensors by the names of a model's inputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One row: what a body of this format is recognised by, and who reads it."""

    name: str
    told: str
    """As the message spells it that lists what is accepted."""
    read: Callable[[Body, WorkerConfig], torch.Tensor] | None = None
    """One body to one tensor: float32, or uint8 for pixels. None: `read_request` reads it.

    Raises:
        RowError: the body breaks the format's rules (MalformedBody), or is larger than accepted (BodyTooLarge).
    """
    read_items: Callable[[Body, WorkerConfig], torch.Tensor | Items] | None = None
    """The same, where a body may also hold items in a dialect of other servers; None: it may not."""
    read_named: Callable[[Body, WorkerConfig], Named | list[Named] | Items] | None = None
    """For a model with named inputs: one body to tensors of the dtypes that were sent, or as many such as items.

    None: what `read` gives is the input of a model that has one.
    """
    read_request: Callable[[Body, str, WorkerConfig], Request] | None = None
    """Of a protocol: one body, with its Content-Type, to tensors of the dtypes that were sent, and how to answer."""
    begins: Callable[[Body], bool] | None = None
    """Whether the first bytes are this format's beyond doubt: asked first, whatever the Content-Type says."""
    media_types: tuple[str, ...] = ()
    """Content-Types that say so, the usual one first: looked at where no format's first bytes do."""
    resembles: Callable[[Body], bool] | None = None
    """Whether the body may be taken for one, where neither its first bytes nor its Content-Type say anything."""
    is_copied: bool = False
    """Reading it is hardly more than a copy of its numbers."""
    is_image: bool = False
    """The body is one picture for a model of images, not a tensor of any shape."""


FORMATS = (
    Format(
        name="json",
        told='JSON {"data": [...]}',
        read=json_lists.read,
        read_items=json_lists.read_items,
        read_named=json_inputs.read_named,
        media_types=(media_types.JSON, "text/json"),
        resembles=json_lists.resembles,
    ),
    Format(name="jpeg", told="JPEG", read=pictures.read_jpeg, begins=jpeg_files.begins, is_image=True),
    Format(name="png", told="PNG", read=pictures.read_png, begins=png_files.begins, is_image=True),
    Format(name="webp", told="WebP", read=pictures.read_webp, begins=webp_files.begins, is_image=True),
    Format(name="npy", told=".npy", read=npy.read, read_named=npy.read_named, begins=npy.begins, is_copied=True),
    Format(
        name="safetensors",
        told=f'{media_types.SAFETENSORS} (tensor "data")',
        read=safetensors_bodies.read,
        read_named=safetensors_bodies.read_named,
        media_types=(media_types.SAFETENSORS,),
        is_copied=True,
    ),
    Format(
        name="msgpack",
        told=f'{media_types.MSGPACK} {{"data": ...}}',
        read=msgpack_lists.read,
        media_types=(media_types.MSGPACK, "application/x-msgpack", "application/vnd.msgpack"),
    ),
    Format(
        name="npz",
        told=".npz (named inputs)",
        read=npz.read,
        read_named=npz.read_named,
        begins=npz.begins,
        media_types=(media_types.NPZ,),
    ),
    Format(name="wav", told="WAV", read=sounds.read_wav, begins=wav_files.begins),
    Format(name="flac", told="FLAC", read=sounds.read_flac, begins=flac_files.begins),
    Format(
        name="open-inference",
        told="the Open Inference Protocol (/v2/models/<model>/infer)",
        read_request=request.read,
        media_types=(media_types.OPEN_INFERENCE,),
    ),
)
"""In the order in which a client is told them."""

read_open_inference = request.read
UsualJpeg = gpu_jpegs.UsualJpeg
open_usual_jpeg = gpu_jpegs.open_usual
read_on_gpu = gpu_jpegs.read
prepare_pictures = fit.prepare
prepare_sounds = sounds.prepare

ACCEPTED = ", ".join(row.told for row in FORMATS)

_BEGINNINGS = tuple((row.begins, row) for row in FORMATS if row.begins is not None)
_BY_MEDIA_TYPE = {media_type: row for row in FORMATS for media_type in row.media_types}
_RESEMBLANCES = tuple((row.resembles, row) for row in FORMATS if row.resembles is not None)


def recognise(body: Body, content_type: str) -> Format | None:
    """The format of a body: by its first bytes, else by its Content-Type, else by what it looks like.

    Args:
        body: the raw bytes.
        content_type: the request's Content-Type, lower case, or "".
    """
    for begins, row in _BEGINNINGS:
        if begins(body):
            return row
    named = _BY_MEDIA_TYPE.get(media_type_of(content_type))
    if named is not None:
        return named
    for resembles, row in _RESEMBLANCES:
        if resembles(body):
            return row
    return None


def unknown(body: Body, content_type: str, accepted: str = ACCEPTED) -> UnknownFormat:
    """The error of a body that none of these recognises.

    Args:
        body: the raw bytes.
        content_type: as above.
        accepted: what the model takes.
    """
    said = media_type_of(content_type) or "not given"
    name = foreign.name_of(body)
    told = "unknown body format" if name is None else f"the body is {name}, which is not read"
    return UnknownFormat(f"{told} (Content-Type {said!r}); accepted are {accepted}")


def media_type_of(content_type: str) -> str:
    """A Content-Type without its parameters."""
    return content_type.partition(";")[0].strip()
