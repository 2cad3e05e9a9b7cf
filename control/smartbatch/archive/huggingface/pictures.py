"""preprocessor_config.json to the image_* keys: what is done to a picture before the model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smartbatch.archive.huggingface.folder import PICTURES, Folder
from smartbatch.archive.settings import ArchiveError

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers of them."""
_SCALE = 1 / 255


def keys(folder: Folder, config: Mapping[str, Any]) -> dict[str, Any]:
    """`input_shape` and the image_* keys.

    Raises:
        ArchiveError: something is done to pictures that is not done here.
    """
    found = folder.json(PICTURES)
    if found is None:
        raise ArchiveError(f"{folder.path}: has no {PICTURES}, which says how its pictures are prepared")
    where = folder.path / PICTURES
    scale = found.get("rescale_factor", _SCALE)
    if not found.get("do_rescale", True) or abs(float(scale) - _SCALE) > 1e-9:
        raise ArchiveError(f"{where}: pictures are scaled to 0 to 1 here; rescale_factor is {scale}")
    resample = found.get("resample", 2)
    if resample not in _INTERPOLATIONS:
        raise ArchiveError(f"{where}: resample must be one of {sorted(_INTERPOLATIONS)} (Pillow's); got {resample}")
    is_normalized = found.get("do_normalize", True)
    num_channels = int(config.get("num_channels") or 3)
    mean = found.get("image_mean") if is_normalized else [0.0] * num_channels
    std = found.get("image_std") if is_normalized else [1.0] * num_channels
    if not isinstance(mean, list) or not isinstance(std, list):
        raise ArchiveError(f"{where}: must have image_mean and image_std, a number a channel each")
    sizes = _sizes(found, where)
    return {
        "input_shape": [num_channels, sizes["image_crop"], sizes["image_crop"]],
        **sizes,
        "image_interpolation": _INTERPOLATIONS[resample],
        "image_mean": mean,
        "image_std": std,
    }


def _sizes(found: Mapping[str, Any], where: object) -> dict[str, Any]:
    """`image_resize`, `image_crop`, and how the one becomes the other."""
    if not found.get("do_resize", True):
        raise ArchiveError(f"{where}: do_resize is false; pictures of all sizes cannot share a forward")
    size = found.get("size")
    shorter = size if isinstance(size, int) else size.get("shortest_edge") if isinstance(size, dict) else None
    if found.get("crop_pct") and shorter is not None:  # ConvNeXt: small sizes are cropped, large ones squashed
        if shorter < 384:
            return {"image_resize": int(shorter / float(found["crop_pct"])), "image_crop": shorter}
        return _squashed(shorter)
    if found.get("do_center_crop"):
        crop = _square(found.get("crop_size"), where)
        if shorter is None:
            shorter = _square(size, where)
        if shorter < crop:
            raise ArchiveError(
                f"{where}: crop_size {crop} is more than the size {shorter} that pictures are resized to"
            )
        return {"image_resize": shorter, "image_crop": crop}
    return _squashed(_square(size, where))


def _square(size: Any, where: object) -> int:
    if isinstance(size, int):
        return size
    height, width = (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)
    if not isinstance(height, int) or height != width:
        raise ArchiveError(f"{where}: pictures must become squares, of one height and width; got {size}")
    return height


def _squashed(side: int) -> dict[str, Any]:
    """The whole picture, whatever its sides, made a square."""
    return {"image_resize": side, "image_crop": side, "image_fit": "squash"}
