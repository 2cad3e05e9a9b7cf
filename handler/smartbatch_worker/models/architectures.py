"""Modules without weights yet: a torchvision classifier by name, or the class of a `model.py`."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.models.state_dicts import ModelLoadError

_SOURCE_MODULE = "smartbatch_user_model"
# These two build auxiliary training heads and initialise by rejection sampling, unless told not to.
_INCEPTIONS = ("googlenet", "inception_v3")
_AUX_HEADS = ("aux1", "aux2", "AuxLogits")
# torchvision renamed densenet's layers after its weights were published: `norm.1.` became `norm1.`.
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def torchvision_classifiers() -> list[str]:
    """Every classifier torchvision can build by name."""
    from torchvision import models

    return list(models.list_models(module=models))


def require_classifier(name: str) -> None:
    """Check a builder's name.

    Raises:
        ModelLoadError: torchvision has no such classifier; the message names those that are near.
    """
    if name not in (known := torchvision_classifiers()):
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ModelLoadError(f"model {name!r} is no torchvision classifier and no .py, .pt or .pt2 file{hint}")


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


def build_from_source(path: Path, class_name: str | None, num_classes: int | None) -> torch.nn.Module:
    """Import a `model.py` and make its class; `num_classes` is passed on where the constructor takes it.

    Modules that lie beside the file can be imported from it.

    Raises:
        ModelLoadError: the file is missing, fails to import, or the class cannot be told or made.
    """
    module = _import(path)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, torch.nn.Module) and value.__module__ == module.__name__
    }
    if class_name is None and len(found) != 1:
        listing = ", ".join(sorted(found)) or "none"
        raise ModelLoadError(f"{path}: must define one torch.nn.Module or model_class must name it; found {listing}")
    chosen = next(iter(found.values())) if class_name is None else vars(module).get(class_name)
    if not inspect.isclass(chosen) or not issubclass(chosen, torch.nn.Module):
        raise ModelLoadError(
            f"{path}: model_class {class_name!r} is no torch.nn.Module in it; found {', '.join(sorted(found))}"
        )
    takes_num_classes = "num_classes" in inspect.signature(chosen).parameters
    if num_classes is not None and not takes_num_classes:
        raise ModelLoadError(
            f"{path}: num_classes is {num_classes}, but {chosen.__name__}() takes no num_classes argument"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _module(chosen(num_classes=num_classes) if num_classes is not None else chosen())
    except Exception as error:
        raise ModelLoadError(f"{path}: {chosen.__name__}() raised {type(error).__name__}: {error}") from error


def _import(path: Path) -> Any:
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(_SOURCE_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_SOURCE_MODULE] = module  # dataclasses and pickling look their own module up by name
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelLoadError(f"{path}: import failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _module(value: Any) -> torch.nn.Module:
    if not isinstance(value, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module; got a {type(value).__name__}")
    return value
