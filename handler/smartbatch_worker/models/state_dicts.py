"""Weights files: read without running their code, and put into a module key by key.

    file ──read_state_dict──▶ {key: tensor} ──fill──▶ module

Both raise `ModelLoadError`, whose message names the file and the first thing wrong with it.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from smartbatch_worker.models.kind import ModelLoadError

# Training scripts wrap the weights in a checkpoint under one of these keys …
WRAPPERS = ("state_dict", "model_state_dict", "model")
# … and DataParallel and torch.compile put their own name in front of every key.
PREFIXES = ("module.", "_orig_mod.")

_ADVICE = "weights_only"
"""In PyTorch's messages that say how to read a file all the same, which would run whatever is in it."""
_BLOCKED_GLOBAL = re.compile(r"GLOBAL (\S+) was not an allowed global")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a `.safetensors` file or a `torch.save` checkpoint; no code in them ever runs.

    Tensors are memory-mapped where the format allows it, so that workers share the file's pages.

    Raises:
        ModelLoadError: the file is corrupt, holds code, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelLoadError(f"{path}: corrupt safetensors file ({error})") from error
    return _unwrap(_read_checkpoint(path), path)


def fill(module: torch.nn.Module, state_dict: Mapping[str, torch.Tensor], path: Path, name: str) -> None:
    """Make the tensors of `state_dict` the module's own, without a copy.

    Args:
        module: may be on the meta device.
        state_dict: must have exactly the module's keys and shapes.
        path: where the tensors are from, for the message.
        name: what the model is called, for the message.

    Raises:
        ModelLoadError: naming the first key that is missing, of another shape, or unexpected.
    """
    expected = module.state_dict()
    complete = OrderedDict(state_dict)
    for key in expected:
        # Checkpoints from before torch 0.4.1 lack these counters, and eval mode never reads them.
        if key.endswith("num_batches_tracked"):
            complete.setdefault(key, torch.tensor(0))
    # Layers upgrade old checkpoints by versions kept beside the keys; safetensors keeps none and is current.
    versions = getattr(state_dict, "_metadata", None) or getattr(expected, "_metadata", {})
    complete._metadata = versions  # type: ignore[attr-defined]
    try:
        module.load_state_dict(complete, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        mismatch = _first_mismatch(expected, complete) or str(error)
        raise ModelLoadError(f"{path}: does not fit {name}: {mismatch}") from error


def _first_mismatch(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    for key, tensor in expected.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if key not in found:
            return f"key {key!r} is missing (the model wants shape {list(tensor.shape)})"
        if tensor.shape != found[key].shape:
            return f"key {key!r} has shape {list(found[key].shape)} in the file and {list(tensor.shape)} in the model"
    for key, tensor in found.items():
        if key not in expected:
            return f"key {key!r} of shape {list(tensor.shape)} is unknown to the model"
    return None


def _read_checkpoint(path: Path) -> Any:
    try:
        # Only the zip format (the default since torch 1.6) can be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if blocked := _BLOCKED_GLOBAL.search(str(error)):
            raise ModelLoadError(
                f"{path}: holds Python objects ({blocked[1]}), and reading those could run code; "
                "save the weights alone: torch.save(model.state_dict(), path)"
            ) from error
        raise _corrupt(path, error) from error
    # A damaged pickle can fail in any way at all, KeyError from a stray opcode included.
    except Exception as error:
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> ModelLoadError:
    reason = (str(error).splitlines() or [""])[0].partition(". This is an internal")[0]
    told = type(error).__name__ if _ADVICE in reason else f"{type(error).__name__}: {reason}"
    return ModelLoadError(
        f"{path}: corrupt or not a PyTorch weights file ({told}); torch.save(model.state_dict(), path) writes one"
    )


def _unwrap(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(loaded, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(inner := loaded.get(wrapper), Mapping):
                loaded = inner
                break
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelLoadError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    state_dict = OrderedDict(loaded)
    versions = getattr(loaded, "_metadata", None)
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ModelLoadError(
                f"{path}: entry {key!r} is a {type(value).__name__}, not a tensor; "
                f"accepted are a state dict, or one under {', '.join(WRAPPERS)}"
            )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state_dict):
            state_dict = OrderedDict((key[len(prefix) :], value) for key, value in state_dict.items())
            versions = {key.removeprefix(prefix): value for key, value in (versions or {}).items()} or None
    state_dict._metadata = versions  # type: ignore[attr-defined]
    return state_dict
