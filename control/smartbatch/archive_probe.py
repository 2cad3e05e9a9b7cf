"""The child process of the archive check: runs as `python -m smartbatch.archive_probe`, job on stdin.

Reads one JSON job, writes one line of JSON: {"error": message}, or {"found": handler keys, "notes": lines}.
The staged folder is first on the path, so what is imported is what ships.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from smartbatch_worker.architectures import build_torchvision, without_training_heads
from smartbatch_worker.config import WorkerConfig
from smartbatch_worker.errors import ModelFailed
from smartbatch_worker.loaders import RANDOM_SEED, ModelLoadError, build_model, max_batch_size
from smartbatch_worker.model import ManagedModel
from smartbatch_worker.split import AnswerSplitter

_NUM_ITEMS = 3  # more than one, and no size that another dimension is likely to have
_OTHER_SHAPE = re.compile(
    r"has shape \[(?P<rows>\d+)(?P<rest>[^\]]*)\] in the file and \[\d+(?P<model_rest>[^\]]*)\] in the model"
)
_OTHER_SIDE = 32  # pixels added to see whether the model takes images of another size


class CheckError(Exception):
    """The archive would not serve; the message says why."""


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job; the keys are those `smartbatch.archive_check` writes."""
    folder = Path(job["folder"])
    config = WorkerConfig.resolve(job["section"], {})
    check_entry_point(job["entry_point"], folder)
    _write_weights(config, folder, job)
    module = build_model(config, folder)
    found: dict[str, Any] = {}
    notes: list[str] = []
    exported_shape = getattr(module, "input_shape", None) if config.model.endswith(".pt2") else None
    if "input_shape" not in job["section"] and isinstance(exported_shape, tuple):
        found["input_shape"] = list(exported_shape)
        config = replace(config, input_shape=exported_shape)
    shape = _example_shape(config)
    if shape is None:
        notes.append(f"not run once: input_shape {config.as_dict()['input_shape']} leaves sizes open")
        return {"found": found, "notes": notes}
    model = _as_served(config, folder)
    with model.ready():
        for count in sorted({1, min(_NUM_ITEMS, max_batch_size(module) or _NUM_ITEMS)}):
            output = _run(model, shape, count)
    _check_labels(output, job["num_labels"])
    is_image = config.input_shape is not None and len(shape) == 3 and None in config.input_shape
    if is_image and "input_shape" not in job["section"] and not _takes_other_sizes(module, shape):
        found["input_shape"] = list(shape)
        notes.append(f"the model takes {list(shape)} only: recorded as its input_shape")
    return {"found": found, "notes": notes}


def check_entry_point(entry_point: str, folder: Path) -> None:
    """Catch here what TorchServe would hide behind a misleading error when the worker starts."""
    name = Path(entry_point).stem
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise CheckError(f"{folder / entry_point}: import failed with {type(error).__name__}: {error}") from error
    classes = [
        value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    if not hasattr(module, "handle"):
        if len(classes) != 1:
            names = ", ".join(c.__name__ for c in classes) or "none"
            raise CheckError(
                f"{folder / entry_point}: TorchServe wants exactly one class in a handler's file; found {names}. "
                "Move helpers to a module of their own (--extra-files)"
            )
        for method in ("initialize", "handle"):
            if not callable(getattr(classes[0], method, None)):
                raise CheckError(
                    f"{folder / entry_point}: {classes[0].__name__} has no {method}(); "
                    "subclass smartbatch_handler.SmartBatchHandler"
                )


def _write_weights(config: WorkerConfig, folder: Path, job: dict[str, Any]) -> None:
    if job["random_weights"]:
        module = build_torchvision(config.model, config.num_classes, random_seed=RANDOM_SEED)
        module = without_training_heads(module)
    elif job["weights_from"] is not None:
        try:
            module = build_model(replace(config, weights=job["weights_from"]), folder)
        except ModelLoadError as error:
            message = str(error).replace(job["weights_from"], job["weights_name"])
            raise CheckError(message + _class_count_hint(message)) from error
    else:
        return
    assert config.weights is not None
    # A copy each: safetensors refuses tensors that share memory.
    state_dict = {key: tensor.detach().clone().contiguous() for key, tensor in module.state_dict().items()}
    save_file(state_dict, folder / config.weights, metadata={"format": "pt"})


def _class_count_hint(message: str) -> str:
    """Where a mismatch is one of rows alone, it is the classifier's width."""
    found = _OTHER_SHAPE.search(message)
    if found is None or found["rest"] != found["model_rest"]:
        return ""
    return f" (is the number of classes another? try --num-classes {found['rows']})"


def _example_shape(config: WorkerConfig) -> tuple[int, ...] | None:
    """A shape to try: open sizes of an image are the crop's; other open sizes are anyone's guess."""
    shape = config.input_shape
    if shape is None:
        return None
    if len(shape) == 3 and shape[0] is not None:
        return tuple(config.image_crop if size is None else size for size in shape)
    return None if None in shape else tuple(size for size in shape if size is not None)


def _as_served(config: WorkerConfig, folder: Path) -> ManagedModel:
    """The model as a worker runs it, on this machine's CPU and without calibration or compilation.

    fp16 is for GPUs: on a CPU many operations lack it, and that says nothing about the archive.
    """
    precision = "fp32" if config.precision == "fp16" else config.precision
    as_checked = replace(config, precision=precision, compile="off", micro_batch=1, idle_unload_s=0.0)
    return ManagedModel(
        as_checked, folder, torch.device("cpu"), _NUM_ITEMS, on_load=lambda _: None, on_unload=lambda: None
    )


def _run(model: ManagedModel, shape: tuple[int, ...], count: int) -> Any:
    def run(size: int) -> Any:
        return model.forward(torch.rand((size, *shape), generator=torch.Generator().manual_seed(0)))

    try:
        output = run(count)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise CheckError(
            f"the model failed on {count} item{'s' * (count > 1)} of shape {list(shape)} with "
            f"{type(error).__name__}: {first_line}. Does --input-shape say what one item is, without the batch?"
        ) from error
    try:
        AnswerSplitter().split(output, count, run)
    except ModelFailed as error:
        raise CheckError(f"{error}; the answer's first dimension must be the batch") from error
    return output


def _takes_other_sizes(module: torch.nn.Module, shape: tuple[int, ...]) -> bool:
    channels, height, width = shape
    try:
        with torch.inference_mode():
            module(torch.zeros(1, channels, height + _OTHER_SIDE, width + _OTHER_SIDE))
    except Exception:
        return False
    return True


def _check_labels(output: Any, num_labels: int | None) -> None:
    if num_labels is None or not isinstance(output, torch.Tensor) or output.ndim != 2:
        return
    if output.shape[1] != num_labels:
        raise CheckError(f"the model answers {output.shape[1]} classes, and there are {num_labels} labels")


def main() -> None:
    """Run the job on stdin."""
    torch.set_num_threads(min(4, torch.get_num_threads()))
    try:
        answer = probe(json.loads(sys.stdin.read()))
    except (CheckError, ModelLoadError) as error:
        answer = {"error": str(error)}
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
