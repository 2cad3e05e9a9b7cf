"""A user's own network: the class of a `model.py`, with weights of a file or as its constructor makes them."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights
from smartbatch_worker.models.state_dicts import fill

_SOURCE_MODULE = "smartbatch_user_model"


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Make the class and fill it with the weights file, if one is configured.

    Raises:
        ModelLoadError: one of the two files is missing or wrong, or they do not fit.
    """
    module = build_from_source(model_dir / config.model, config.model_class, config.num_classes)
    if config.weights is not None:
        path = model_dir / config.weights
        fill(module, read_weights(path), path, type(module).__name__)
    return module


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
            made = chosen(num_classes=num_classes) if num_classes is not None else chosen()
        if not isinstance(made, torch.nn.Module):
            raise TypeError(f"expected a torch.nn.Module; got a {type(made).__name__}")
        return made
    except Exception as error:
        raise ModelLoadError(f"{path}: {chosen.__name__}() raised {type(error).__name__}: {error}") from error


def required_arguments(module: torch.nn.Module) -> list[str]:
    """The names that a forward must be given; none where its signature says nothing, as a program's does not."""
    if isinstance(module, torch.jit.ScriptModule):
        return []
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in positional and parameter.default is parameter.empty
    ]


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


KIND = Kind(name="source", suffix=".py", load=load, own_weights="as {model} builds them")
