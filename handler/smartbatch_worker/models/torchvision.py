"""A torchvision classifier by name, with weights of a file or random ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights
from smartbatch_worker.models.state_dicts import fill

RANDOM_SEED = 0

# These two build auxiliary training heads and initialise by rejection sampling, unless told not to.
_INCEPTIONS = ("googlenet", "inception_v3")
_AUX_HEADS = ("aux1", "aux2", "AuxLogits")
# torchvision renamed densenet's layers after its weights were published: `norm.1.` became `norm1.`.
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_ELSEWHERE = "timm's models are --timm NAME, Hugging Face's --hf NAME, and any other is a model.py (--model-file)"
_OTHER_ROOMS = {
    "video": "--input-shape 3,16,112,112 of a video",
    "optical_flow": "--input image1:float32:3,H,W and --input image2:float32:3,H,W",
    "quantization": "--input-shape 3,224,224",
}
"""Of torchvision.models, whose models are not served by name; and what they take as a `model.py`."""


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Build the classifier that `config.model` names and fill it; random weights are those of `RANDOM_SEED`.

    Raises:
        ModelLoadError: torchvision has no such classifier, or there are no weights, or they do not fit.
    """
    require_classifier(config.model)
    path = weights_path(config, model_dir)
    if path is None:
        return without_training_heads(build_torchvision(config.model, config.num_classes, random_seed=RANDOM_SEED))
    state_dict = torchvision_keys(config.model, read_weights(path))
    module = build_torchvision(
        config.model,
        config.num_classes,
        pretrained_input=config.weights_source == "pretrained",
        state_dict=state_dict,
    )
    fill(module, state_dict, path, config.model)
    return without_training_heads(module)


def torchvision_classifiers() -> list[str]:
    """Every classifier torchvision can build by name."""
    from torchvision import models

    return list(models.list_models(module=models))


def require_classifier(name: str) -> None:
    """Check a builder's name.

    Raises:
        ModelLoadError: torchvision has no such classifier; the message names those that are near.
    """
    require_known(name, torchvision_classifiers(), "torchvision classifier and no .py, .pt or .pt2 file or config.json")


def require_known(name: str, known: Sequence[str], what: str) -> None:
    """Check a name among those of its kind.

    Raises:
        ModelLoadError: it is none of them; the message names those of torchvision's that are near.
    """
    from torchvision import models

    if name not in known:
        for room, takes in _OTHER_ROOMS.items():
            if name in models.list_models(module=getattr(models, room)):
                raise ModelLoadError(
                    f"model {name!r} is of torchvision.models.{room}, which is not served by name: write a model.py "
                    f"whose module holds it, and say what it takes ({takes})"
                )
        rooms = (models, models.detection, models.segmentation)
        names = {*known, *(each for room in rooms for each in models.list_models(module=room))}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        hint = f"near it are {', '.join(near)}" if near else _ELSEWHERE
        raise ModelLoadError(f"model {name!r} is no {what}; {hint}")


def weights_path(config: WorkerConfig, model_dir: Path) -> Path | None:
    """The file of weights; None where random ones are asked for.

    Raises:
        ModelLoadError: neither is configured.
    """
    if config.weights is None and config.weights_source != "random":
        raise ModelLoadError(
            f"model {config.model!r} has no weights: set weights to a file in the archive, or weights_source to random"
        )
    return None if config.weights is None else model_dir / config.weights


def build_torchvision(
    name: str,
    num_classes: int | None,
    *,
    pretrained_input: bool = False,
    random_seed: int | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> torch.nn.Module:
    """Build a torchvision classifier to be filled with `state_dict`, or with random weights.

    Args:
        name: torchvision's builder name, such as "resnet18".
        num_classes: width of the last layer; None is torchvision's 1000.
        pretrained_input: the weights are torchvision's own, whose inception models expect inputs rescaled in
            the module.
        random_seed: initialise the weights from this seed; None leaves them to `state_dict`, on the meta
            device where the architecture can be built there.
        state_dict: the weights to come: tells whether inception's auxiliary heads are among them.

    Raises:
        ModelLoadError: torchvision has no such classifier.
    """
    from torchvision import models

    require_classifier(name)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in _INCEPTIONS:
        aux_logits = state_dict is not None and any(key.startswith(_AUX_HEADS) for key in state_dict)
        options |= {
            "init_weights": random_seed is not None,
            "aux_logits": aux_logits,
            "transform_input": pretrained_input,
        }
    if random_seed is None:
        try:
            with torch.device("meta"):
                return _module(models.get_model(name, weights=None, **options))
        except NotImplementedError:
            pass  # regnet reads numbers out of tensors while it is built: it needs real ones
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        return _module(models.get_model(name, weights=None, **options))


def without_training_heads(module: torch.nn.Module) -> torch.nn.Module:
    """Drop inception's auxiliary heads: eval mode never runs them, and they are a third of the weights."""
    for head in _AUX_HEADS:
        if getattr(module, head, None) is not None:
            setattr(module, head, None)
            module.__dict__["aux_logits"] = False
    return module


def torchvision_keys(name: str, state_dict: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Translate the keys of weights published before torchvision renamed its layers."""
    if not name.startswith("densenet"):
        return state_dict
    return {_OLD_DENSENET_KEY.sub(r"\1\2.", key): tensor for key, tensor in state_dict.items()}


def _module(value: Any) -> torch.nn.Module:
    if not isinstance(value, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module; got a {type(value).__name__}")
    return value


KIND = Kind(name="torchvision", suffix=None, load=load, own_weights="none", is_ours=True)
