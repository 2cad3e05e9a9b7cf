"""Files that hold a whole program, code and weights: what they are called, and how they are told by what is in them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """One way to write a program into a zip archive; it keeps the precision and the mode it was saved with."""

    name: str
    """That of its kind of model."""
    suffix: str
    """Of its file in a model archive. Elsewhere a suffix lies too often: `.pt` is also a state dict's."""
    entries: frozenset[str]
    """Any of these in the zip archive tells."""


TORCHSCRIPT = Program("torchscript", ".pt", frozenset({"constants.pkl"}))
EXPORTED = Program("exported", ".pt2", frozenset({"archive_format", "serialized_exported_program.json"}))


def program_in(path: Path) -> Program | None:
    """The kind of program that a file holds, None where it holds none.

    Raises:
        OSError: the file cannot be read.
    """
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        entries = archive.namelist()
    # Entries lie under one folder, but for torch.export's before torch 2.7.
    names = {*entries, *(name.partition("/")[2] for name in entries)}
    return next((program for program in (TORCHSCRIPT, EXPORTED) if not program.entries.isdisjoint(names)), None)
