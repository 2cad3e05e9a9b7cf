"""What a tutorial's server does with an image: PIL, torchvision's transforms, eager float32 ResNet18, argmax."""

from __future__ import annotations

import io

import torch
import torchvision
from PIL import Image
from smartbatch_worker.contract.shapes import IMAGENET_MEAN as MEAN
from smartbatch_worker.contract.shapes import IMAGENET_STD as STD
from torchvision import transforms

TRANSFORM = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
)


def load_model(weights: str, name: str = "resnet18") -> torch.nn.Module:
    """torchvision's model of this name, in eval mode."""
    model: torch.nn.Module = torchvision.models.get_model(name, weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def to_tensor(body: bytes) -> torch.Tensor:
    """An image file to [3, 224, 224]."""
    tensor: torch.Tensor = TRANSFORM(Image.open(io.BytesIO(body)).convert("RGB"))
    return tensor
