"""A torchvision detector by name: boxes, labels and scores, masks or keypoints of each picture, in its own pixels."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights
from smartbatch_worker.models.state_dicts import fill
from smartbatch_worker.models.torchvision import RANDOM_SEED, require_known, weights_path

Detections: TypeAlias = "dict[str, torch.Tensor]"
"""Of one picture: boxes [K, 4] (left, top, right, bottom), labels [K], scores [K]; masks bool [K, 1, H, W]; keypoints
[K, P, 3] and keypoints_scores [K, P]. K is what was found, best first."""

_MASK_THRESHOLD = 0.5  # torchvision's documentation has it
_PROBE_SIDE = 256
_COMPILERS = ("auto", "off")
# Published weights of these were trained with batch norms that add nothing to the variance.
_NO_EPS = ("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Build the detector that `config.model` names and fill it; random weights are those of `RANDOM_SEED`.

    Raises:
        ModelLoadError: torchvision has no such detector, there are no weights, or they do not fit; or a setting asks
            for what no detector can do.
    """
    require_detector(config.model)
    if config.precision != "fp32" or config.compile not in _COMPILERS:
        asked = f"precision: {config.precision}, compile: {config.compile}"
        raise ModelLoadError(
            f"model {config.model!r} finds boxes, which runs in fp32 as PyTorch has it (precision: fp32, compile: "
            f"auto or off); got {asked}"
        )
    path = weights_path(config, model_dir)
    model = build_detector(config.model, config.num_classes, pretrained=config.weights_source == "pretrained")
    if path is not None:
        fill(model, read_weights(path), path, config.model)
    return Detector(model.eval())


def detectors() -> list[str]:
    """Every detector torchvision can build by name."""
    from torchvision import models

    return list(models.list_models(module=models.detection))


def require_detector(name: str) -> None:
    """Check a builder's name.

    Raises:
        ModelLoadError: torchvision has no such detector; the message names those that are near.
    """
    require_known(name, detectors(), "torchvision detector")


def build_detector(name: str, num_classes: int | None, *, pretrained: bool = False) -> Any:
    """torchvision's module with the weights of `RANDOM_SEED`.

    Not on the meta device: anchors are numbers that are worked out while it is built.

    Args:
        name: torchvision's builder name.
        num_classes: with the background, as torchvision counts them; None is its default.
        pretrained: the weights to come are torchvision's own, or began as those.
    """
    from torchvision import models

    options = {} if num_classes is None else {"num_classes": num_classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = models.get_model(name, weights=None, weights_backbone=None, **options)
    if pretrained and name in _NO_EPS:
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eps = 0.0
    return model


class Detector(torch.nn.Module):
    """Finds things in pictures of any sizes, each answered as if it were alone.

    torchvision pads the pictures of a batch to the largest, and what lies beside a picture shows in its answer. So
    those share a forward that alone would be padded to the same size: all, where the model resizes to a fixed one.

    Args:
        model: of torchvision, in eval mode.
    """

    takes_list = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        _settle_scales(model)
        if hasattr(model, "roi_heads") and model.roi_heads.has_mask():
            model.transform.postprocess = _SmallMasks(model.transform)

    def forward(self, images: torch.Tensor | Sequence[torch.Tensor]) -> list[Detections]:
        """float32 [3, H, W] of any sizes, 0 to 1, or [N, 3, H, W], to what is in each."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self._padded_size(image), []).append(index)
        found: dict[int, Detections] = {}
        for indexes in groups.values():
            answers = self.model([images[index] for index in indexes])
            found.update(zip(indexes, answers, strict=True))
        return [found[index] for index in range(len(images))]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """torchvision's own, under its own names."""
        return self.model.state_dict(*args, **kwargs)

    def _padded_size(self, image: torch.Tensor) -> tuple[int, int]:
        """Height and width that the picture alone has in the model, as its transform works them out."""
        transform = self.model.transform
        if transform.fixed_size is not None:
            return tuple(transform.fixed_size)
        height, width = image.shape[-2:]
        scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        step = transform.size_divisible
        rows, columns = (math.ceil(math.floor(side * scale) / step) * step for side in (height, width))
        return rows, columns


def _settle_scales(model: Any) -> None:
    """Have poolers work out how much smaller features are than pictures now, on a square.

    They do so once, from the first picture they see, and round: a thin strip would have all later pictures of this
    worker answered wrongly.
    """
    heads = getattr(model, "roi_heads", None)
    poolers = [getattr(heads, f"{name}_roi_pool", None) for name in ("box", "mask", "keypoint")]
    if not any(poolers):
        return
    with torch.inference_mode():
        features = model.backbone(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        if isinstance(features, torch.Tensor):
            features = OrderedDict([("0", features)])
        box = torch.tensor([[0.0, 0.0, _PROBE_SIDE, _PROBE_SIDE]])
        for pooler in poolers:
            if pooler is not None:
                pooler(features, [box], [(_PROBE_SIDE, _PROBE_SIDE)])


class _SmallMasks:
    """torchvision's last step, but for masks: each is drawn by itself, and kept as bool where it is likely.

    Of a hundred things in a picture of two megapixels torchvision draws 800 MB of probabilities; this keeps 200 MB.

    Args:
        transform: of the model.
    """

    def __init__(self, transform: Any) -> None:
        self._transform = type(transform).postprocess.__get__(transform)

    def __call__(
        self,
        result: list[Detections],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[Detections]:
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        drawn = [entry.pop("masks") for entry in result]
        result = self._transform(result, image_shapes, original_image_sizes)
        for entry, masks, (height, width) in zip(result, drawn, original_image_sizes, strict=True):
            entry["masks"] = torch.empty((len(masks), 1, height, width), dtype=torch.bool, device=masks.device)
            for index in range(len(masks)):
                one = slice(index, index + 1)
                pasted = paste_masks_in_image(masks[one], entry["boxes"][one], (height, width))
                entry["masks"][index] = pasted[0] > _MASK_THRESHOLD
        return result


KIND = Kind(
    name="detection",
    suffix=None,
    prefixes=("fasterrcnn_", "fcos_", "keypointrcnn_", "maskrcnn_", "retinanet_", "ssd300_", "ssdlite320_"),
    load=load,
    own_weights="none",
    keeps_rows_apart=True,
)
