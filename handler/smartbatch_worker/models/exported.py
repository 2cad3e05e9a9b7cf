"""A torch.export program (`.pt2`): code and weights in one file, and what its inputs are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.export import ExportedProgram

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.programs import EXPORTED
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights, first_line

_LETTERS = "LMKPQRSTUVWXYZ"


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Load a torch.export program, whose batch dimension must be dynamic.

    Raises:
        ModelLoadError: the file is corrupt, or the program is fixed to one batch size.
    """
    path = model_dir / config.model
    try:
        with quiet("torch.export"):
            program = torch.export.load(path)
    except Exception as error:  # it deserializes a whole graph: any type of error can come out of a bad file
        raise ModelLoadError(f"{path}: cannot be loaded as an exported program ({first_line(error)})") from error
    tensors = input_tensors(program, path)
    for name, tensor in tensors.items():
        if not isinstance(tensor.shape[0], torch.SymInt):
            raise ModelLoadError(
                f"{path}: takes batches of exactly {tensor.shape[0]} ({name}); export it with a dynamic batch "
                "dimension, two items in x: torch.export.export(model, (x,), "
                'dynamic_shapes=({0: torch.export.Dim("batch")},))'
            )
    module: torch.nn.Module = program.module()  # in the mode it was exported in: exported modules refuse .eval()
    first = next(iter(tensors.values()))
    if len(tensors) > 1 or first.dtype != torch.float32 or config.inputs is not None:
        module = _ByName(module, program)
        module.__dict__["inputs"] = _as_declared(tensors)
        if config.inputs is not None and {spec.name for spec in config.inputs} != set(tensors):
            declared = ", ".join(spec.name for spec in config.inputs)
            raise ModelLoadError(f"{path}: takes {', '.join(tensors)}; inputs: declares {declared}")
    else:
        module.__dict__["input_shape"] = tuple(d if isinstance(d, int) else None for d in first.shape[1:])
    module.__dict__["max_batch_size"] = _upper_bound(program, first.shape[0])  # type: ignore[arg-type]
    return module


class _ByName(torch.nn.Module):
    """A program called by the names of its inputs, however it was exported."""

    def __init__(self, module: torch.nn.Module, program: ExportedProgram) -> None:
        super().__init__()
        self.module = module
        self._names, self._in_spec = program.graph_signature.user_inputs, program.call_spec.in_spec

    def forward(self, **inputs: torch.Tensor) -> Any:
        args, kwargs = pytree.tree_unflatten([inputs[str(name)] for name in self._names], self._in_spec)
        return self.module(*args, **kwargs)


def input_tensors(program: ExportedProgram, path: Path) -> dict[str, torch.Tensor]:
    """The program's inputs as it was exported with; dynamic dimensions are `torch.SymInt`.

    Raises:
        ModelLoadError: it takes none, or something that is no tensor with a batch dimension.
    """
    names = program.graph_signature.user_inputs
    found = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in names}
    for name, value in found.items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            raise ModelLoadError(f"{path}: must take tensors [N, …]; {name} is a {type(value).__name__}")
    if not found or len(found) != len(names):
        raise ModelLoadError(f"{path}: must take tensors [N, …]; it takes {list(names)}")
    return found


def _as_declared(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What `inputs` of model-config.yaml says of these; sizes that move together have one letter."""
    letters: dict[str, str] = {}

    def size(given: int | torch.SymInt) -> int | str:
        if isinstance(given, int):
            return given
        return letters.setdefault(str(given), _LETTERS[len(letters) % len(_LETTERS)])

    return {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [size(given) for given in tensor.shape[1:]]}
        for name, tensor in tensors.items()
    }


def _upper_bound(program: ExportedProgram, batch: torch.SymInt) -> int | None:
    bounds = program.range_constraints.get(batch.node.expr)
    upper = getattr(bounds, "upper", None)
    return int(upper) if upper is not None and getattr(upper, "is_Integer", False) else None


@contextmanager
def quiet(logger_name: str) -> Iterator[None]:
    """Keep torch from logging a traceback of its own: the error we raise says it in one line."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


KIND = Kind(
    name=EXPORTED.name,
    suffix=EXPORTED.suffix,
    load=load,
    own_weights="embedded in {model}",
    is_program=True,
    tells_inputs=True,
)
