"""Media types that both planes write: what a client says its body is, and what the worker says its answer is."""

from __future__ import annotations

import mimetypes

JSON = "application/json"
NPY = "application/x-npy"
NPZ = "application/x-npz"
SAFETENSORS = "application/x-safetensors"
MSGPACK = "application/msgpack"
JPEG = "image/jpeg"
PNG = "image/png"
WEBP = "image/webp"
WAV = "audio/wav"
FLAC = "audio/flac"
TEXT = "text/plain"
OPEN_INFERENCE = "application/vnd.open-inference"
"""Ours for the Open Inference Protocol, which has none; `; json=N` says that binary tensors follow N bytes of JSON."""
ANY = "application/octet-stream"

BY_SUFFIX = {
    ".json": JSON,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".png": PNG,
    ".webp": WEBP,
    ".npy": NPY,
    ".npz": NPZ,
    ".msgpack": MSGPACK,
    ".safetensors": SAFETENSORS,
    ".wav": WAV,
    ".flac": FLAC,
    ".txt": TEXT,
}
"""Of a file, by the end of its name in lower case; of any other, ANY."""


def of_file(name: str) -> str:
    """Of a file, by the end of its name; of what only a handler of a user's own reads, as the system has it."""
    return BY_SUFFIX.get("." + name.rpartition(".")[2].lower()) or mimetypes.guess_type(name)[0] or ANY


def suffix_of(media_type: str) -> str:
    """How the names of such files end."""
    return next(suffix for suffix, its_type in BY_SUFFIX.items() if its_type == media_type)
