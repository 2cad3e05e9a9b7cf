"""torchvision's own weights: fetched, recognised by their hash, or replaced by random ones that say so."""

from __future__ import annotations

import hashlib
import http.client
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from smartbatch.archive.published.weights import CONNECT_TIMEOUT_S, Weights, connect_timeout
from smartbatch.archive.settings import ArchiveError, ArchiveSettings
from smartbatch.errors import UsageError

# max_pixels and micro_batch where pictures keep their size, so that none is typical and nothing is measured. Detectors
# work on a size of their own, so only pixels before it and masks after it take memory; all of segmentation's does.
_DETECTION = (12_500_000, 8)  # a phone's picture
_WITH_MASKS = (2_000_000, 2)  # of a hundred things each: 200 MB
_SEGMENTATION = (2_000_000, 2)  # of 21 classes: 170 MB

# torchvision publishes weights as <name>-<first hex digits of their SHA-256>.pth.
_PUBLISHED_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")


def choose_weights(settings: ArchiveSettings, name: str, report: Callable[[str], None]) -> Weights:
    """Pick the weights of the torchvision model `name`.

    Raises:
        UsageError: the combination of settings cannot have pretrained weights.
        ArchiveError: the model is unknown, or pretrained weights were required and cannot be had.
    """
    from smartbatch_worker.models import ModelLoadError, kind_of
    from smartbatch_worker.models.detection import require_detector
    from smartbatch_worker.models.segmentation import require_segmenter
    from smartbatch_worker.models.torchvision import require_classifier
    from torchvision import models

    require = {"detection": require_detector, "segmentation": require_segmenter}
    try:
        require.get(kind_of(name).name, require_classifier)(name)
    except ModelLoadError as error:
        raise ArchiveError(str(error)) from error
    published = models.get_model_weights(name)
    default = published.DEFAULT
    if settings.model_path is not None:
        known = recognise(settings.model_path, published)
        if known is not None:
            return _weights(settings.model_path, "pretrained", f"pretrained {known.name}", known)
        if settings.require_pretrained:
            raise ArchiveError(
                f"{settings.model_path}: is not one of torchvision's pretrained {name} weights "
                f"({', '.join(w.name for w in published)}), and --require-pretrained asks for those"
            )
        return _weights(settings.model_path, "file", f"file {settings.model_path.name}", default)
    if not settings.random_weights:
        num_pretrained = len(default.meta["categories"])
        if settings.num_classes not in (None, num_pretrained):
            raise UsageError(
                f"pretrained {name} has {num_pretrained} classes: --num-classes {settings.num_classes} "
                "needs --model-path or --random-weights"
            )
        report(f"fetching pretrained weights {name} {default.name} ({default.meta['_file_size']:.0f} MB)")
        try:
            return _weights(fetch(default), "pretrained", f"pretrained {default.name}", default)
        except (OSError, http.client.HTTPException) as error:  # urllib's errors and timeouts are OSErrors
            if settings.require_pretrained:
                raise ArchiveError(
                    f"pretrained weights of {name} cannot be fetched from {default.url}: {error}"
                ) from error
            report(
                f"WARNING: pretrained weights of {name} cannot be fetched ({error}): building with RANDOM "
                "weights, which answer nonsense. Put the file somewhere and set MODEL_PATH to it, or pass "
                f"--require-pretrained to make this an error. Its address: {default.url}"
            )
    return _weights(None, "random", "random seed 0 (NOT pretrained)", default)


def _weights(path: Path | None, source: str, note: str, weights: Any) -> Weights:
    return Weights(path, source, note, _image_keys(weights), list(weights.meta["categories"]))


def _image_keys(weights: Any) -> dict[str, Any]:
    """How the model is shown pictures, as the preset of its published weights has it, but for their size.

    torchvision evaluates segmentation at 520 pixels; here it sees pictures in their own size, as detection does, so
    that what is answered is about the pixels that were sent.
    """
    from torchvision.transforms import _presets as presets

    preset = weights.transforms()
    if isinstance(preset, presets.ObjectDetection):  # it normalises by itself
        has_masks = type(weights).__name__.startswith("MaskRCNN")
        return _own_size([0.0] * 3, [1.0] * 3, *(_WITH_MASKS if has_masks else _DETECTION))
    if isinstance(preset, presets.SemanticSegmentation):
        return _own_size(list(preset.mean), list(preset.std), *_SEGMENTATION)
    return {
        "image_resize": preset.resize_size[0],
        "image_crop": preset.crop_size[0],
        "image_interpolation": preset.interpolation.value,
        "image_mean": list(preset.mean),
        "image_std": list(preset.std),
    }


def _own_size(mean: list[float], std: list[float], max_pixels: int, micro_batch: int) -> dict[str, Any]:
    keys = {"image_resize": None, "image_crop": None, "image_mean": mean, "image_std": std}
    return {**keys, "max_pixels": max_pixels, "micro_batch": micro_batch}


def recognise(path: Path, published: Iterable[Any]) -> Any:
    """The published weights that this file holds, by the hash in their file's name; None where it is none."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    for weights in published:
        found = _PUBLISHED_HASH.search(weights.url)
        if found and digest.hexdigest().startswith(found[1]):
            return weights
    return None


def fetch(weights: Any) -> Path:
    """Download through torchvision's weights API, into torch's cache; a file that is there already is taken.

    Raises:
        OSError, http.client.HTTPException: the network or the disk.
        ArchiveError: what arrived, or what lies in the cache, is not the published file.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    try:
        with connect_timeout(CONNECT_TIMEOUT_S):
            weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ArchiveError(f"{path}: downloaded weights are damaged ({error}); delete the file and retry") from error
    # torch checks the hash of what it downloads, and not of what lies in its cache already.
    if recognise(path, [weights]) is None:
        raise ArchiveError(f"{path}: is not what {weights.url} publishes; delete the file and retry")
    return path
