"""A torchvision segmentation model by name: for each pixel of a picture a score a class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.kind import Kind, ReadWeights
from smartbatch_worker.models.state_dicts import fill
from smartbatch_worker.models.torchvision import RANDOM_SEED, require_known, weights_path

_AUX_HEAD = "aux_classifier."


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Build the model that `config.model` names and fill it: [N, 3, H, W] to {"out": [N, K, H, W]}.

    Random weights are those of `RANDOM_SEED`.

    Raises:
        ModelLoadError: torchvision has no such model, or there are no weights, or they do not fit.
    """
    require_segmenter(config.model)
    path = weights_path(config, model_dir)
    state_dict = None if path is None else read_weights(path)
    module: Any = build_segmenter(config.model, config.num_classes, state_dict)
    if path is not None and state_dict is not None:
        fill(module, state_dict, path, config.model)
    module.aux_classifier = None  # of use in training alone: it would double the work and the answer
    assert isinstance(module, torch.nn.Module)
    return module


def segmenters() -> list[str]:
    """Every segmentation model torchvision can build by name."""
    from torchvision import models

    return list(models.list_models(module=models.segmentation))


def require_segmenter(name: str) -> None:
    """Check a builder's name.

    Raises:
        ModelLoadError: torchvision has no such model; the message names those that are near.
    """
    require_known(name, segmenters(), "torchvision segmentation model")


def build_segmenter(name: str, num_classes: int | None, state_dict: Mapping[str, torch.Tensor] | None = None) -> Any:
    """torchvision's module, to be filled with `state_dict`, or with the weights of `RANDOM_SEED`.

    Args:
        name: torchvision's builder name.
        num_classes: with the background, as torchvision counts them; None is its default.
        state_dict: the weights to come: tells whether the auxiliary head is among them.
    """
    from torchvision import models

    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if state_dict is not None and any(key.startswith(_AUX_HEAD) for key in state_dict):
        options["aux_loss"] = True
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if state_dict is None else "meta"):
        torch.manual_seed(RANDOM_SEED)
        return models.get_model(name, weights=None, weights_backbone=None, **options)


KIND = Kind(name="segmentation", suffix=None, prefixes=("deeplabv3_", "fcn_", "lraspp_"), load=load, own_weights="none")
