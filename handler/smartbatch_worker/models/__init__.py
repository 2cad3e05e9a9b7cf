"""The kinds of models that can be served: one file a kind, one table.

`load` builds what a configuration names; `KINDS`, `kind_of` and `file_kind` here say what is what. The room knows files
and modules, nothing of devices, compilers or requests. A new kind: CONTRIBUTING.md, recipe 2.
"""

from __future__ import annotations

from pathlib import Path

from smartbatch_worker.contract.programs import Program, program_in
from smartbatch_worker.models import (
    detection,
    exported,
    huggingface,
    segmentation,
    source,
    timm,
    torchscript,
    torchvision,
)
from smartbatch_worker.models.kind import Kind, ModelLoadError

__all__ = ["KINDS", "Kind", "ModelLoadError", "existing_program", "file_kind", "kind_of"]

KINDS = (
    timm.KIND,
    source.KIND,
    torchscript.KIND,
    exported.KIND,
    huggingface.KIND,
    detection.KIND,
    segmentation.KIND,
    torchvision.KIND,
)
"""In the order in which they are asked; torchvision takes whatever is neither a file nor another's name."""


def kind_of(model: str) -> Kind:
    """The kind of the model that `config.model` names."""
    return next(kind for kind in KINDS if kind.takes(model))


def existing_program(path: Path) -> Program | None:
    """The whole program that a file holds, None where it holds weights.

    Raises:
        ModelLoadError: there is no such file.
    """
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such file")
    return program_in(path)


def file_kind(path: Path) -> str:
    """What a file holds, in one word: the name of a program's kind, "safetensors" or "state_dict".

    Raises:
        ModelLoadError: there is no such file.
    """
    program = existing_program(path)
    if program is not None:
        return program.name
    return "safetensors" if path.suffix == ".safetensors" else "state_dict"
