"""Whole programs: TorchScript (`.pt`) and torch.export (`.pt2`) files carry code and weights in one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram

from smartbatch_worker.models.state_dicts import ModelLoadError, file_kind


def load_torchscript(path: Path) -> torch.nn.Module:
    """Load a TorchScript program onto the CPU, in eval mode.

    Raises:
        ModelLoadError: the file is missing, corrupt or no TorchScript program.
    """
    _require_kind(path, "torchscript")
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated; its files are not, and this is still the one way to load them.
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
            program = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelLoadError(f"{path}: cannot be loaded as TorchScript ({_first_line(error)})") from error
    assert isinstance(program, torch.nn.Module)
    return program.eval()


def load_exported(path: Path) -> torch.nn.Module:
    """Load a torch.export program, whose batch dimension must be dynamic.

    Raises:
        ModelLoadError: the file is missing, corrupt, no exported program, or fixed to one batch size.
    """
    _require_kind(path, "exported")
    try:
        with _quiet("torch.export"):
            program = torch.export.load(path)
    except Exception as error:  # it deserializes a whole graph: any type of error can come out of a bad file
        raise ModelLoadError(f"{path}: cannot be loaded as an exported program ({_first_line(error)})") from error
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


def _require_kind(path: Path, wanted: str) -> None:
    if (kind := file_kind(path)) != wanted:
        raise ModelLoadError(f"{path}: its suffix says {wanted}, its content says {kind} (or it is corrupt)")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


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
