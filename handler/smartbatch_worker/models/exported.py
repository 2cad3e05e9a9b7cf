"""A torch.export program (`.pt2`): code and weights in one file, and the input's shape."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.kind import Kind, ModelLoadError, ReadWeights, first_line


def load(config: WorkerConfig, model_dir: Path, read_weights: ReadWeights) -> torch.nn.Module:
    """Load a torch.export program, whose batch dimension must be dynamic.

    Raises:
        ModelLoadError: the file is corrupt, or the program is fixed to one batch size.
    """
    path = model_dir / config.model
    try:
        with _quiet("torch.export"):
            program = torch.export.load(path)
    except Exception as error:  # it deserializes a whole graph: any type of error can come out of a bad file
        raise ModelLoadError(f"{path}: cannot be loaded as an exported program ({first_line(error)})") from error
    shape = exported_input_shape(program, path)
    if not isinstance(shape[0], torch.SymInt):
        raise ModelLoadError(
            f"{path}: takes batches of exactly {shape[0]}; export it with a dynamic batch dimension, two "
            'items in x: torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))'
        )
    module = program.module()  # in the mode it was exported in: exported modules refuse .eval()
    module.__dict__["max_batch_size"] = _upper_bound(program, shape[0])
    module.__dict__["input_shape"] = tuple(d if isinstance(d, int) else None for d in shape[1:])
    return module


def exported_input_shape(program: ExportedProgram, path: Path) -> torch.Size:
    """Shape of the program's single tensor input; dynamic dimensions are `torch.SymInt`.

    Raises:
        ModelLoadError: the program does not take exactly one tensor.
    """
    names = program.graph_signature.user_inputs
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor) or values[0].dim() == 0:
        raise ModelLoadError(f"{path}: must take exactly one tensor [N, …]; it takes {list(names)}")
    return values[0].shape


def _upper_bound(program: ExportedProgram, batch: torch.SymInt) -> int | None:
    bounds = program.range_constraints.get(batch.node.expr)
    upper = getattr(bounds, "upper", None)
    return int(upper) if upper is not None and getattr(upper, "is_Integer", False) else None


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Keep torch from logging a traceback of its own: the error we raise says it in one line."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


KIND = Kind(
    name="exported",
    suffix=".pt2",
    load=load,
    own_weights="embedded in {model}",
    entries=frozenset({"archive_format", "serialized_exported_program.json"}),
    tells_input_shape=True,
)
