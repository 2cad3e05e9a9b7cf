"""A model of timm's registry by name (`timm/vit_tiny_patch16_224`), with weights of a file or random ones."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights, first_line
from smartbatch_worker.models.state_dicts import fill
from smartbatch_worker.models.torchvision import RANDOM_SEED, weights_path

PREFIX = "timm/"


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Build the model that `config.model` names and fill it; random weights are those of `RANDOM_SEED`.

    Raises:
        ModelLoadError: timm is not installed or has no such model, or there are no weights, or they do not fit.
    """
    name = config.model.removeprefix(PREFIX)
    require_timm(name)
    path = weights_path(config, model_dir)
    module = build_timm(name, config.num_classes)
    if path is not None:
        fill(module, read_weights(path), path, config.model)
    return module


def import_timm() -> Any:
    """The library, which workers of other models start without.

    Raises:
        ModelLoadError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ModelLoadError(
            f"timm's models need the package timm: pip install 'smartbatch[timm]' ({error})"
        ) from error
    return timm


def require_timm(name: str) -> None:
    """Check a model's name, with or without its weights' tag behind a dot.

    Raises:
        ModelLoadError: timm is not installed, or has no such model; the message names those that are near.
    """
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    # Only what is in the registry: other names would have timm fetch a model, or read one from a folder.
    known = timm.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ModelLoadError(f"timm {timm.__version__} has no model {name!r}{hint}")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", include_tags=True)]
    if tag and tag not in tags:
        told = ", ".join(filter(None, tags)) or "none"
        raise ModelLoadError(f"timm {timm.__version__} knows no weights {tag!r} of {architecture}; it knows {told}")


def build_timm(name: str, num_classes: int | None) -> torch.nn.Module:
    """timm's module with the weights of `RANDOM_SEED`; it fetches nothing.

    Raises:
        ModelLoadError: it cannot be built.
    """
    options = {} if num_classes is None else {"num_classes": num_classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        try:
            module = import_timm().create_model(name, pretrained=False, **options)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelLoadError(f"timm cannot build {name} ({first_line(error)})") from error
    assert isinstance(module, torch.nn.Module)
    return module


KIND = Kind(
    name="timm",
    suffix=None,
    prefixes=(PREFIX,),
    load=load,
    own_weights="none",
    may_be_read=lambda config: True,
    libraries=("timm",),
)
