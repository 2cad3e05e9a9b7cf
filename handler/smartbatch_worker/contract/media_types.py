"""Media types that both planes write: what a client says its body is, and what the worker says its answer is."""

from __future__ import annotations

JSON = "application/json"
NPY = "application/x-npy"
SAFETENSORS = "application/x-safetensors"
MSGPACK = "application/msgpack"
JPEG = "image/jpeg"
PNG = "image/png"
WEBP = "image/webp"
WAV = "audio/wav"
FLAC = "audio/flac"
TEXT = "text/plain"
ANY = "application/octet-stream"

BY_SUFFIX = {
    ".json": JSON,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".png": PNG,
    ".webp": WEBP,
    ".npy": NPY,
    ".msgpack": MSGPACK,
    ".safetensors": SAFETENSORS,
    ".wav": WAV,
    ".flac": FLAC,
    ".txt": TEXT,
}
"""Of a file, by the end of its name in lower case; of any other, ANY."""
