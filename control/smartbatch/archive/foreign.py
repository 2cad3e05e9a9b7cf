"""Files of models that PyTorch does not read: named as what they are, where they would pass for corrupt weights."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from smartbatch.archive.settings import ArchiveError

_NUM_BYTES = 16
_EXPORT = (
    "give the PyTorch model that it was made from, as a torch.export program (.pt2) or as model.py with its weights"
)
_KERAS = (
    "is a model of Keras",
    "give the weights of a PyTorch model; Keras with its PyTorch backend can torch.export one",
)


@dataclass(frozen=True, slots=True)
class _Foreign:
    """One kind of file, told by any of these."""

    told: str
    instead: str
    """What to do."""
    suffix: str | None = None
    """Where nothing in the file is the same in all of them."""
    begins: bytes | None = None
    at: int = 0
    """How many bytes lie before those."""
    entry: str | None = None
    """A part of the name of something in the zip archive."""
    unless: str | None = None
    """Nothing in the archive has this in its name."""

    def is_in(self, path: Path, first: bytes, entries: list[str]) -> bool:
        if self.suffix is not None:
            return path.suffix.lower() == self.suffix
        if self.begins is not None:
            return first.startswith(self.begins, self.at)
        if self.unless is not None and any(self.unless in entry for entry in entries):
            return False
        return self.entry is not None and any(self.entry in entry for entry in entries)


_FOREIGN = (
    _Foreign("is an ONNX model", _EXPORT, suffix=".onnx"),
    _Foreign("is an OpenVINO model", f"{_EXPORT}, and OpenVINO by --set compile=openvino", suffix=".xml"),
    _Foreign("is a model of TensorFlow", _EXPORT, suffix=".pb"),
    _Foreign("is a model of TensorFlow Lite", _EXPORT, begins=b"TFL3", at=4),
    _Foreign(*_KERAS, begins=b"\x89HDF"),
    _Foreign(*_KERAS, entry="model.weights.h5"),
    _Foreign("is a program of ExecuTorch, for devices", _EXPORT, begins=b"ET12", at=4),
    _Foreign("is an engine of TensorRT, for one GPU", _EXPORT, begins=b"ftrt"),
    _Foreign(
        "is a program of AOTInductor, compiled for one machine",
        "give the torch.export program that it was compiled from; --set compile=inductor compiles where it runs",
        entry="data/aotinductor/",
        unless="/models/",
    ),
    _Foreign(
        "is a GGUF file, of llama.cpp",
        "serve it by llama.cpp or vLLM, or give the Hugging Face model that it was made from (--hf)",
        begins=b"GGUF",
    ),
    _Foreign(
        "is an archive already",
        "put it into the model store: smartbatch serve --model NAME serves it as it is",
        entry="MAR-INF/MANIFEST.json",
    ),
)


def refuse_foreign(path: Path) -> None:
    """Check what is given as weights or as a program.

    Raises:
        ArchiveError: it is another library's; the message says what it is and what to give instead.
    """
    with path.open("rb") as file:
        first = file.read(_NUM_BYTES)
    entries: list[str] = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
    for kind in _FOREIGN:
        if kind.is_in(path, first, entries):
            raise ArchiveError(f"{path}: {kind.told}, which is not served: {kind.instead}")
