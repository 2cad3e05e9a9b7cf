"""From a configuration and a directory to a module that is ready to answer.

    torchvision name ─┐
    model.py ─────────┴▶ architecture ──fill(weights file)──┐
    *.pt  TorchScript ──────────────────────────────────────┼▶ frozen module, on the CPU
    *.pt2 torch.export ─────────────────────────────────────┤
    config.json  Hugging Face's folder ─────────────────────┘

The archive step runs the very same code, so an archive that was built loads.
"""

from __future__ import annotations

from pathlib import Path

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models import existing_program, file_kind, kind_of
from smartbatch_worker.models.kind import ModelLoadError
from smartbatch_worker.models.state_dicts import read_state_dict
from smartbatch_worker.models.torchvision import RANDOM_SEED

__all__ = ["ModelLoadError", "build_model", "describe_weights", "max_batch_size"]


def build_model(config: WorkerConfig, model_dir: Path) -> torch.nn.Module:
    """Build the configured model: fp32, on the CPU, in eval mode, taking no gradients.

    Programs (`.pt`, `.pt2`) keep the precision and the mode they were saved with.

    Args:
        config: what to build.
        model_dir: the unpacked archive, where `config.model` and `config.weights` are looked up.

    Raises:
        ModelLoadError: naming the file and what is wrong with it.
    """
    kind = kind_of(config.model)
    if kind.is_program:
        path = model_dir / config.model
        if config.weights is not None:
            raise ModelLoadError(f"{config.model}: carries its own weights; {config.weights} cannot be put in it")
        if (found := file_kind(path)) != kind.name:
            raise ModelLoadError(f"{path}: its suffix says {kind.name}, its content says {found} (or it is corrupt)")
    module = kind.load(config, model_dir, _read_weights)
    if not kind.is_program:
        module = module.float().eval()
    for parameter in module.parameters():  # not module.requires_grad_: TorchScript modules refuse it
        parameter.requires_grad_(False)
    return module


def describe_weights(config: WorkerConfig) -> str:
    """Say where the weights are from, in one line fit for a header: "pretrained IMAGENET1K_V1"."""
    if config.weights_note is not None:
        return config.weights_note
    kind = kind_of(config.model)
    if not kind.is_program:
        if config.weights_source == "random":
            return f"random seed {RANDOM_SEED} (NOT pretrained)"
        if config.weights is not None:
            return f"file {config.weights}"
    return kind.own_weights.format(model=config.model)


def max_batch_size(module: torch.nn.Module) -> int | None:
    """The most items the module takes at once, where it was exported with a bound; None means no bound."""
    bound = getattr(module, "max_batch_size", None)
    return bound if isinstance(bound, int) else None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if (program := existing_program(path)) is not None:
        raise ModelLoadError(f"{path}: holds a whole {program.name} program, not weights; give it as the model instead")
    return read_state_dict(path)
