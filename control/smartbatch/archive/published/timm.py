"""timm's own weights and preprocessing: fetched, taken from a file, or replaced by random ones that say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smartbatch.archive.published.weights import CONNECT_TIMEOUT_S, Weights, connect_timeout
from smartbatch.archive.settings import ArchiveError, ArchiveSettings
from smartbatch.errors import UsageError

_FITS = {"center": "crop", "squash": "squash", "border": "letterbox"}
"""timm's crop_mode, and what it is called here."""


def choose_timm_weights(settings: ArchiveSettings, name: str, target: Path, report: Callable[[str], None]) -> Weights:
    """Pick the weights of timm's model `name`; those that are fetched are written to `target`.

    Raises:
        UsageError: the combination of settings cannot have pretrained weights.
        ArchiveError: timm is not installed or has no such model, or pretrained weights were required and cannot be had.
    """
    from smartbatch_worker.models import ModelLoadError
    from smartbatch_worker.models.timm import import_timm, require_timm

    try:
        require_timm(name)
    except ModelLoadError as error:
        raise ArchiveError(str(error)) from error
    timm = import_timm()
    config = timm.get_pretrained_cfg(name)
    if config is None or config.num_classes is None:
        raise ArchiveError(f"timm {timm.__version__} says nothing of how {name} is shown pictures")
    keys = preprocessing(config.to_dict())
    labels = labels_of(config)

    def weights(path: Path | None, source: str, note: str, is_staged: bool = False) -> Weights:
        return Weights(path, source, note, keys, labels, is_staged)

    if settings.model_path is not None:
        if settings.require_pretrained:
            raise UsageError(
                "--require-pretrained: which weights a file for --timm holds cannot be told; leave one out"
            )
        return weights(settings.model_path, "file", f"file {settings.model_path.name}")
    if not settings.random_weights:
        if settings.num_classes not in (None, config.num_classes):
            raise UsageError(
                f"pretrained {name} has {config.num_classes} classes: --num-classes {settings.num_classes} "
                "needs --model-path or --random-weights"
            )
        told = f"{config.architecture or name}.{config.tag}" if config.tag else name
        report(f"fetching pretrained weights {told}")
        try:
            fetch(timm, name, target)
            return weights(target, "pretrained", f"pretrained timm {told}", is_staged=True)
        except Exception as error:  # the hub's client has errors of many libraries
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if settings.require_pretrained:
                raise ArchiveError(f"pretrained weights of {name} cannot be fetched: {reason}") from error
            report(
                f"WARNING: pretrained weights of {name} cannot be fetched ({reason}): building with RANDOM weights, "
                "which answer nonsense. Put their file somewhere and pass --model-path, or pass --require-pretrained "
                f"to make this an error. Where they are: {_address(config)}"
            )
    return weights(None, "random", "random seed 0 (NOT pretrained)")


def preprocessing(config: dict[str, Any]) -> dict[str, Any]:
    """Handler keys that show pictures as timm's own evaluation transform does.

    Args:
        config: a `pretrained_cfg`.

    Raises:
        ArchiveError: it asks for what there is no setting for.
    """
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=config)
    num_channels, *size = data["input_size"]
    fit = _FITS.get(data["crop_mode"])
    if fit is None or data["interpolation"] not in ("bilinear", "bicubic", "nearest"):
        raise ArchiveError(
            f"timm shows this model pictures with crop_mode {data['crop_mode']!r} and interpolation "
            f"{data['interpolation']!r}; supported are {', '.join(_FITS)}, and bilinear, bicubic and nearest"
        )
    if data["crop_pct"] > 1 and fit != "letterbox":
        raise ArchiveError(
            f"timm shows this model pictures with crop_pct {data['crop_pct']}, smaller than it takes them"
        )
    keys = {
        "image_resize": _sides([math.floor(side / data["crop_pct"]) for side in size]),
        "image_fit": fit,
        "image_crop": _sides(size),
        "image_interpolation": data["interpolation"],
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
    }
    if fit == "letterbox":
        keys["image_background"] = [round(255 * value) for value in data["mean"]]
    if num_channels != 3:
        keys["input_shape"] = [num_channels, None, None]
    return keys


def labels_of(config: Any) -> list[str]:
    """Class names by index, where timm knows them: those of its model, or ImageNet's for one of as many classes."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if config.label_names:
        described = config.label_descriptions or {}
        return [described.get(name, name) for name in config.label_names]
    subset = infer_imagenet_subset(config.to_dict())
    return list(ImageNetInfo(subset).label_descriptions()) if subset else []


def fetch(timm: Any, name: str, target: Path) -> None:
    """Have timm fetch its weights, and write them as safetensors.

    Raises:
        Exception: of the network, of the hub's client, or timm has no weights of this model.
    """
    from safetensors.torch import save_file

    with connect_timeout(CONNECT_TIMEOUT_S):
        module = timm.create_model(name, pretrained=True)
    # A copy each: safetensors refuses tensors that share memory.
    state_dict = {key: tensor.detach().clone().contiguous() for key, tensor in module.state_dict().items()}
    save_file(state_dict, target, metadata={"format": "pt"})


def _address(config: Any) -> str:
    return f"{config.hf_hub_id} on the Hugging Face hub" if config.hf_hub_id else str(config.url or "nowhere")


def _sides(size: Sequence[int]) -> int | list[int]:
    height, width = size
    return height if height == width else [height, width]
