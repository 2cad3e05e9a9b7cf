"""What a kind of model is: one row of `KINDS`, and the error that all of them raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from smartbatch_worker.contract.config import WorkerConfig


class ModelLoadError(Exception):
    """A model that cannot be built: the message names the file and what is wrong with it."""


ReadWeights: TypeAlias = Callable[[Path], dict[str, torch.Tensor]]
"""From a weights file to its tensors; it refuses what is a whole program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How models of one kind are recognised, loaded, and spoken of."""

    name: str
    suffix: str | None
    """How `config.model` ends, where it is a file; None: it is a name."""
    load: Callable[[WorkerConfig, Path, ReadWeights], torch.nn.Module]
    """From the configuration and the unpacked archive to a module on the CPU; raises `ModelLoadError`."""
    own_weights: str
    """Where the weights are from if no file of weights is configured, for a header; `{model}` is `config.model`."""
    prefixes: tuple[str, ...] = ()
    """How `config.model` begins, where it is a name; none: any name is this kind's that is no other's."""
    is_program: bool = False
    """One file carries code and weights, and no other can be put in it; see `contract/programs.py`."""
    is_ours: bool = False
    """Its source is known, so that it may be traced: batch norms are folded and convolutions swapped."""
    may_be_read: Callable[[WorkerConfig], bool] = lambda config: False
    """Its source is a known library's, and gives tensors: `compile: auto` may have a compiler read it by running it,
    and compares what that made."""
    keeps_rows_apart: bool = False
    """Known from its source; and its answers, lists in the order of their scores, cannot be compared number by number:
    rounding decides between equals."""
    tells_inputs: bool = False
    """The module's `input_shape`, or `inputs`, is the program's own."""
    libraries: tuple[str, ...] = ()
    """Packages whose code the forward is, beside PyTorch and what every worker has."""
    settings: tuple[str, ...] = ()
    """Keys of the configuration that say what the forward computes, beside those of every kind."""
    weights_beside: str | None = None
    """Files in the folder of `config.model` that are its weights, as a pattern."""

    def takes(self, model: str) -> bool:
        """Whether `config.model` may be of this kind, where no row before it takes it."""
        if self.suffix is not None:
            return model.endswith(self.suffix)
        return not self.prefixes or model.startswith(self.prefixes)


def first_line(error: Exception) -> str:
    """A library's error in one line, for the message of ours."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
