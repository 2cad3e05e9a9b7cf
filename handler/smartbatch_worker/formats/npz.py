"""NumPy's .npz files, named arrays in a zip, for models with named inputs."""

from __future__ import annotations

import io
import zipfile
import zlib

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import BodyTooLarge, MalformedBody, UnknownFormat
from smartbatch_worker.formats import npy
from smartbatch_worker.formats.limits import check_count, check_names, first_line

_MAX_ENTRIES = 256
_MAX_BYTES_PER_NUMBER = 8
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
_SUFFIX = ".npy"


def begins(body: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a zip file with something in it."""
    return body[:4] == b"PK\x03\x04"


def read(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """Of a model of one unnamed tensor, which has no use for names.

    Raises:
        UnknownFormat: always, with what it takes.
    """
    raise UnknownFormat("this model takes one tensor, and .npz files hold named ones; send .npy")


def read_named(body: bytes | bytearray, config: WorkerConfig) -> dict[str, torch.Tensor]:
    """Read the arrays that the model's inputs name, as they are.

    Sizes are checked as the zip declares them, before anything is inflated, and no entry is inflated further than that.

    Raises:
        MalformedBody: it is no zip of .npy files.
        BodyTooLarge: it declares more than max_elements numbers can take.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is no valid .npz file: {first_line(error)}") from None
    with archive:
        entries = archive.infolist()
        if len(entries) > _MAX_ENTRIES:
            raise MalformedBody(f"the .npz file has {len(entries)} arrays; at most {_MAX_ENTRIES} are accepted")
        by_name = {entry.filename.removesuffix(_SUFFIX): entry for entry in entries}
        if len(by_name) != len(entries):
            raise MalformedBody("the .npz file has two arrays of one name")
        check_names(by_name, config.inputs or ())
        most = config.max_elements * _MAX_BYTES_PER_NUMBER + len(entries) * npy.MAX_HEADER_BYTES
        if (declared := sum(entry.file_size for entry in entries)) > most:
            raise BodyTooLarge(f"the .npz file holds {declared} bytes; max_elements allows {most}")
        tensors = {name: _read_entry(archive, entry, config.max_elements) for name, entry in by_name.items()}
    check_count(sum(tensor.numel() for tensor in tensors.values()), config.max_elements)
    return tensors


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, max_elements: int) -> torch.Tensor:
    if entry.compress_type not in _COMPRESSIONS or entry.flag_bits & 1:
        raise MalformedBody(f".npz array {entry.filename[:40]!r} is encrypted, or compressed otherwise than by deflate")
    try:
        with archive.open(entry) as stream:
            data = bytearray(stream.read(entry.file_size + 1))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise MalformedBody(f".npz array {entry.filename[:40]!r} is damaged: {first_line(error)}") from None
    if len(data) != entry.file_size or not npy.begins(data):
        raise MalformedBody(f".npz array {entry.filename[:40]!r} is no .npy file of the size it declares")
    return npy.read_exact(data, max_elements)
