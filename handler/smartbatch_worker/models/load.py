"""From a configuration and a directory to a module that is ready to answer.

    torchvision name ─┐
    model.py ─────────┴▶ architecture ──fill(weights file)──┐
    *.pt  TorchScript ──────────────────────────────────────┼▶ frozen module, on the CPU
    *.pt2 torch.export ─────────────────────────────────────┘

The archive step runs the very same code, so an archive that was built loads.
"""

from __future__ import annotations

from pathlib import Path

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.architectures import (
    build_from_source,
    build_torchvision,
    require_classifier,
    torchvision_keys,
    without_training_heads,
)
from smartbatch_worker.models.programs import load_exported, load_torchscript
from smartbatch_worker.models.state_dicts import ModelLoadError, fill, read_state_dict

__all__ = ["ModelLoadError", "build_model", "describe_weights", "max_batch_size"]

RANDOM_SEED = 0


def build_model(config: WorkerConfig, model_dir: Path) -> torch.nn.Module:
    """Build the configured model: fp32, on the CPU, in eval mode, taking no gradients.

    Programs (`.pt`, `.pt2`) keep the precision and the mode they were saved with.

    Args:
        config: what to build.
        model_dir: the unpacked archive, where `config.model` and `config.weights` are looked up.

    Raises:
        ModelLoadError: naming the file and what is wrong with it.
    """
    if config.model.endswith((".pt", ".pt2")):
        if config.weights is not None:
            raise ModelLoadError(f"{config.model}: carries its own weights; {config.weights} cannot be put in it")
        load = load_exported if config.model.endswith(".pt2") else load_torchscript
        return _without_gradients(load(model_dir / config.model))
    if config.model.endswith(".py"):
        module = build_from_source(model_dir / config.model, config.model_class, config.num_classes)
        if config.weights is not None:
            path = model_dir / config.weights
            fill(module, read_state_dict(path), path, type(module).__name__)
    else:
        module = _build_classifier(config, model_dir)
    return _without_gradients(module.float().eval())


def describe_weights(config: WorkerConfig) -> str:
    """Say where the weights are from, in one line fit for a header: "pretrained IMAGENET1K_V1"."""
    if config.weights_note is not None:
        return config.weights_note
    if config.model.endswith((".pt", ".pt2")):
        return f"embedded in {config.model}"
    if config.weights_source == "random":
        return f"random seed {RANDOM_SEED} (NOT pretrained)"
    if config.weights is not None:
        return f"file {config.weights}"
    return f"as {config.model} builds them" if config.model.endswith(".py") else "none"


def max_batch_size(module: torch.nn.Module) -> int | None:
    """The most items the module takes at once, where it was exported with a bound; None means no bound."""
    bound = getattr(module, "max_batch_size", None)
    return bound if isinstance(bound, int) else None


def _build_classifier(config: WorkerConfig, model_dir: Path) -> torch.nn.Module:
    require_classifier(config.model)
    if config.weights is None:
        if config.weights_source != "random":
            raise ModelLoadError(
                f"model {config.model!r} has no weights: set weights to a file in the archive, "
                "or weights_source to random"
            )
        return without_training_heads(build_torchvision(config.model, config.num_classes, random_seed=RANDOM_SEED))
    path = model_dir / config.weights
    state_dict = torchvision_keys(config.model, read_state_dict(path))
    module = build_torchvision(
        config.model,
        config.num_classes,
        pretrained_input=config.weights_source == "pretrained",
        state_dict=state_dict,
    )
    fill(module, state_dict, path, config.model)
    return without_training_heads(module)


def _without_gradients(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():  # not module.requires_grad_: TorchScript modules refuse it
        parameter.requires_grad_(False)
    return module
