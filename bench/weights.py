"""Weights whose answers can be judged without the network: random features, and a last layer that knows the images.

A randomly initialised network gives the same top class for every image, so a wrong answer would look right. Here the
last layer scores the likeness to each bench image's own features: image i must be answered with class i.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

from bench.servers.documented import to_tensor

NUM_CLASSES = 1000
LOGIT_SCALE = 10.0


def make_weights(images: Sequence[bytes], path: Path, model_name: str = "resnet18") -> None:
    """Write a state dict for which image i of `images` (files) has class i."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(model_name, weights=None, num_classes=NUM_CLASSES).eval()
    with torch.inference_mode():
        batch = torch.stack([to_tensor(image) for image in images])
        last = _last_layer(model)
        features = _without(model, last, batch)
        centre = features.mean(0)
        directions = torch.nn.functional.normalize(features - centre, dim=1)
        weight = 0.01 * torch.nn.functional.normalize(torch.randn(NUM_CLASSES, features.shape[1]), dim=1)
        weight[: len(images)] = directions
        weight *= LOGIT_SCALE / (features - centre).norm(dim=1).mean()
        bias = -weight @ centre
    state = model.state_dict()
    state[f"{last}.weight"], state[f"{last}.bias"] = weight.clone(), bias.clone()
    torch.save(state, path)


def reference_classes(tensors: torch.Tensor, weights: Path, model_name: str = "resnet18") -> tuple[list[int], float]:
    """Eager float32's top class per item of [N, 3, H, W], and the smallest lead over the second class."""
    from bench.servers.documented import load_model

    with torch.inference_mode():
        best = load_model(str(weights), model_name)(tensors).topk(2)
    return best.indices[:, 0].tolist(), float((best.values[:, 0] - best.values[:, 1]).min())


def _last_layer(model: torch.nn.Module) -> str:
    """Name of the one that scores classes."""
    names: list[str] = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return names[-1]


def _without(model: torch.nn.Module, layer: str, batch: torch.Tensor) -> torch.Tensor:
    last = model.get_submodule(layer)
    model.set_submodule(layer, torch.nn.Identity())
    features = torch.cat([model(part) for part in torch.split(batch, 16)])  # a thousand at once would take gigabytes
    model.set_submodule(layer, last)
    return features
