"""A TorchScript program (`.pt`): code and weights in one file."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.programs import TORCHSCRIPT
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights, first_line


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Load a TorchScript program onto the CPU, in eval mode.

    Raises:
        ModelLoadError: the file is corrupt.
    """
    path = model_dir / config.model
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated; its files are not, and this is still the one way to load them.
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
            program = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelLoadError(f"{path}: cannot be loaded as TorchScript ({first_line(error)})") from error
    assert isinstance(program, torch.nn.Module)
    return program.eval()


KIND = Kind(
    name=TORCHSCRIPT.name,
    suffix=TORCHSCRIPT.suffix,
    load=load,
    own_weights="embedded in {model}",
    is_program=True,
)
