"""ONNX Runtime, where its packages are installed: the fastest for depthwise convolutions on CPUs with AVX2 alone.

PyTorch's exporter takes 3 to 25 seconds to make a graph of a module. So the graph is kept in the cache, without the
weights: they are the loaded module's, and each worker hands them over by name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.machine import cpu_flags
from smartbatch_worker.forward.batches import unchecked
from smartbatch_worker.forward.compilers import reading
from smartbatch_worker.forward.compilers.compiler import Built, Compiler, CompilerUnavailableError, Task
from smartbatch_worker.models.exported import quiet
from smartbatch_worker.process import cache as kept_files

logger = logging.getLogger(__name__)

MAX_GRAPH_BYTES = 4 << 20
"""Of a graph without weights: one that has more computes with numbers that are no weights, and crowds the cache."""

_PACKAGES = ["onnxruntime", "onnx", "onnxscript"]
_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Of inputs; NumPy has no bfloat16."""
_DIGEST = hashlib.sha256
_DIGEST_BYTES = _DIGEST().digest_size


@dataclass(frozen=True, slots=True)
class Graph:
    """A module in ONNX."""

    model: bytes
    """Weights that are the module's have a name in it, and no values."""
    weights: Sequence[str]
    """These names: `Module.named_parameters` and `named_buffers` give them as well."""

    def to_bytes(self) -> bytes:
        """With a digest of all of it, so that half a file is none."""
        told = json.dumps(self.weights).encode() + b"\n" + self.model
        return _DIGEST(told).digest() + told

    @classmethod
    def from_bytes(cls, kept: bytes) -> Graph | None:
        """What `to_bytes` gave; None where it is anything else."""
        digest, told = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        if _DIGEST(told).digest() != digest:
            return None
        names, _, model = told.partition(b"\n")
        return cls(model, json.loads(names))


def why_not(task: Task) -> str | None:
    """It is not installed, this is no CPU, nobody says what one item looks like, or it would not be fp32."""
    if task.precision != "fp32":
        return "compile: onnxruntime computes in fp32"
    return reading.why_not("onnxruntime", task, _PACKAGES, _DTYPES)


def ways(task: Task, has_bf16: bool) -> tuple[str, ...]:
    """fp32, where the packages are installed; not beside bf16 on AMX, which is several times as fast."""
    if reading.not_installed(_PACKAGES) or (has_bf16 and "amx_bf16" in cpu_flags()):
        return ()
    return ("fp32",)


def is_kept(task: Task) -> bool:
    """Whether the graph lies in the cache."""
    return _read(_path(task)) is not None


def build(task: Task) -> Built:
    """The module as ONNX Runtime runs it, for any number of items; `task.plain` runs what it was not read for.

    Raises:
        CompilerUnavailableError: it would have to be exported while a model answers.
        ValueError: it cannot be exported.
    """
    module, example = reading.in_order(task)
    graph = _read(_path(task))
    if graph is None:
        if task.answers_meanwhile:
            raise CompilerUnavailableError(
                "compile: onnxruntime: the graph is not in the cache", "it is not exported while the model answers"
            )
        graph = _exported(task, module, example)
    return Built(reading.with_pytorch(task, _session(graph, module, task.num_threads)), modules=(task.plain_module,))


def _path(task: Task) -> Path:
    inputs = [(spec.name, spec.dtype) for spec in task.inputs or ()]
    return task.cache_dir / f"{task.name_of(f'onnx {reading.shapes(task)} {inputs}')}.onnx"


def _read(path: Path) -> Graph | None:
    """What is kept there, if all of it is."""
    try:
        graph = Graph.from_bytes(path.read_bytes())
    except OSError:
        return None
    if graph is not None:
        kept_files.note_use(path)
    return graph


def _exported(task: Task, module: torch.nn.Module, example: Sequence[torch.Tensor]) -> Graph:
    """The graph, kept for the next worker where anything can be; those that start together take turns."""
    path, graph = _path(task), None
    try:
        with kept_files.locked(task.cache_dir, "graph", path.stem):
            graph = _read(path) or _export(task, module, example)
            with kept_files.scratch(task.cache_dir) as scratch:
                partial = scratch / path.name
                partial.write_bytes(graph.to_bytes())
                kept_files.keep(partial, path)
    except OSError as error:
        logger.warning("the graph is not kept: %s", error)
    return graph or _export(task, module, example)


def _export(task: Task, module: torch.nn.Module, example: Sequence[torch.Tensor]) -> Graph:
    """The module as a graph."""
    from onnxscript import ir

    free: tuple[Any, ...] = tuple(
        {index: torch.export.Dim.DYNAMIC for index, size in enumerate(shape) if size == -1}
        for shape in reading.shapes(task)
    )
    if isinstance(module, reading.InOrder):
        free = (free,)  # its tensors are one argument, as `torch.export` counts
    module.requires_grad_(False)  # folded weights are of inference mode, in which no export can ask for gradients
    with (
        warnings.catch_warnings(),
        quiet("torch"),
        quiet("onnxscript"),
        quiet("onnx_ir"),
        unchecked(task.module),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")  # of torch, about how a module is read
        try:
            # Not strict: that runs the module's Python, as tracing does, and takes half the time.
            read = torch.export.export(module, tuple(example), dynamic_shapes=free, strict=False)
            program = torch.onnx.export(read, (), dynamo=True, optimize=False, verbose=False)
        except Exception as error:
            raise ValueError(reading.cannot_read("onnxruntime", error)) from error
    assert program is not None
    model, weights = program.model, _weights(module)
    used = [name for name in model.graph.initializers if name in weights]
    for name in used:
        value = model.graph.initializers[name]
        assert value.dtype is not None
        assert value.shape is not None
        value.const_value = ir.ExternalTensor("weights", 0, 0, value.dtype, shape=value.shape, name=name)
    for node in model.graph:
        node.metadata_props.clear()  # where in the source it is from: many times what it does
    graph = Graph(ir.serde.serialize_model(model).SerializeToString(), used)
    if (num_bytes := len(graph.model)) > MAX_GRAPH_BYTES:
        raise ValueError(
            f"compile: onnxruntime: the graph without weights has {num_bytes} bytes, more than {MAX_GRAPH_BYTES}"
        )
    return graph


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By every name that they have."""
    return dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])


def _session(graph: Graph, module: torch.nn.Module, num_threads: int) -> reading.Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # Waiting threads would burn the cores of other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    weights = _weights(module)
    arrays = [weights[name].detach().contiguous().numpy() for name in graph.weights]
    options.add_external_initializers(
        list(graph.weights), [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
    )
    session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: Sequence[torch.Tensor]) -> Any:
        assert arrays is not None  # the session reads them where they lie
        outputs = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        tensors = tuple(map(torch.from_numpy, outputs))
        return tensors[0] if len(tensors) == 1 else tensors

    return run


COMPILER = Compiler(name="onnxruntime", build=build, why_not=why_not, ways=ways, reads_once=True, is_kept=is_kept)
