"""The child process of the archive check: runs as `python -m smartbatch.archive.probe`, job on stdin.

Reads one JSON job, writes one line of JSON: {"error": message}, or {"found": handler keys, "notes": lines, "tensors":
what the Open Inference Protocol tells of the model}.
The staged folder is first on the path, so what is imported is what ships.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow.examples import made_up
from smartbatch_worker.flow.failures import cause_of
from smartbatch_worker.flow.stack import Stacker
from smartbatch_worker.models import kind_of
from smartbatch_worker.models.load import ModelLoadError, build_model
from smartbatch_worker.models.source import required_arguments

from smartbatch.archive.context import start_context
from smartbatch.archive.handler import Example, StartedHandler, check_entry_point
from smartbatch.archive.model import NUM_ITEMS, as_checked, check_model, example_shape, num_together
from smartbatch.archive.named import Seen, check_named
from smartbatch.archive.rows import check_rows_do_not_mix
from smartbatch.archive.settings import CheckError
from smartbatch.archive.stage import ENTRY_POINT
from smartbatch.archive.tensors import Tensors, inputs_of, named_inputs_of
from smartbatch.model_config import CONFIG_FILE

_OTHER_SHAPE = re.compile(
    r"has shape \[(?P<rows>\d+)(?P<rest>[^\]]*)\] in the file and \[\d+(?P<model_rest>[^\]]*)\] in the model"
)


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job; the keys are those `smartbatch.archive.check` writes."""
    folder = Path(job["folder"])
    config = WorkerConfig.resolve(job["section"], {})
    check_entry_point(job["entry_point"], folder)
    _write_weights(config, folder, job)
    module = build_model(config, folder)
    found: dict[str, Any] = {}
    notes: list[str] = []
    if kind_of(config.model).tells_inputs:
        found |= _told_inputs(module, job["section"])
        config = WorkerConfig.resolve({**job["section"], **found}, {})
    outputs: Tensors = []
    shape = None
    if config.inputs is None:
        _refuse_several_arguments(module, job["entry_point"])
        shape = example_shape(config)
        if shape is not None:
            model_notes, outputs = check_model(config, folder, module, shape, job, found)
            notes += model_notes
    section = {**job["section"], "input_shape": config.as_dict()["input_shape"], **found, **as_checked(config)}
    example = _example(job, shape, config)
    handler, seen = _check_handler(job, folder, section, module, example)
    notes += seen.notes
    found |= seen.keys
    inputs = inputs_of(found.get("input_shape", config.input_shape)) if config.inputs is None else []
    tensors = {
        "inputs": (inputs or named_inputs_of(config.inputs or ())) if handler.reads_tensors else [],
        "outputs": (outputs or seen.outputs) if handler.answers_tensors else [],
    }
    return {"found": found, "notes": notes, "tensors": tensors}


def _told_inputs(module: torch.nn.Module, section: dict[str, Any]) -> dict[str, Any]:
    """What the program says that it takes, where the user does not."""
    if "input_shape" in section or "inputs" in section:
        return {}
    told = getattr(module, "inputs", None)
    if told is not None:
        return {"inputs": told}
    shape = getattr(module, "input_shape", None)
    return {"input_shape": list(shape)} if isinstance(shape, tuple) else {}


def _refuse_several_arguments(module: torch.nn.Module, entry_point: str) -> None:
    """A forward that needs several arguments cannot be called with one tensor: say how to declare them."""
    names = required_arguments(module)
    if len(names) > 1 and entry_point == ENTRY_POINT:
        flags = " ".join(f"--input {name}:int64:L:0" for name in names)
        raise CheckError(
            f"{type(module).__name__}.forward takes {', '.join(names)}: declare each with "
            f"--input NAME:DTYPE:SHAPE[:PAD] (a letter is a size that items may differ in), such as {flags}"
        )


def _check_handler(
    job: dict[str, Any], folder: Path, section: dict[str, Any], module: torch.nn.Module, example: Example | None
) -> tuple[StartedHandler, Seen]:
    """Start the handler as a worker does, and have it answer the example alone and among others."""
    with tempfile.TemporaryDirectory(prefix="smartbatch-check-") as scratch:
        # What a handler writes into its archive's folder, such as compiled code, must not be shipped.
        for path in folder.iterdir():
            (Path(scratch) / path.name).symlink_to(path)
        manifest = {"modelName": job["name"], "modelVersion": "1.0", "handler": job["entry_point"]}
        try:
            context = start_context(
                Path(scratch),
                manifest={"model": {**manifest, "configFile": CONFIG_FILE}},
                model_yaml_config={**job["frontend"], "handler": section},
                batch_size=NUM_ITEMS,
            )
            handler = StartedHandler(job["entry_point"], folder, context)
            if example is None:
                told = "its inputs leave" if section.get("inputs") else f"input_shape {section['input_shape']} leaves"
                return handler, Seen([f"not run: {told} sizes open; give --example FILE"])
            return handler, _ask(handler, example, module, section)
        except CheckError as error:
            raise CheckError(str(error).replace(scratch, str(folder))) from error


def _ask(handler: StartedHandler, example: Example, module: torch.nn.Module, section: dict[str, Any]) -> Seen:
    seen = Seen()
    config = WorkerConfig.resolve(section, {})
    if handler.ours is not None:
        items = handler.items_of(example)
        if isinstance(items, str):
            return Seen([f"not run: the handler refuses a generated body ({items}); give --example FILE"])
        called = handler.as_called(module)
        if config.inputs is not None and items:
            seen = check_named(config, called, items)
            if example.name is None and any("float" not in spec.dtype for spec in config.inputs):
                seen.notes.append("checked with made-up numbers, all ones where they are integers: --example is better")
        elif items and (example.name is not None or called is not module):
            seen.notes += _check_items(called, items[0], config)
    elif example.name is None:
        return Seen(["not run: the handler is no SmartBatchHandler and what it reads is unknown; give --example FILE"])
    for count in (1, NUM_ITEMS):
        handler.ask(example, count)
    return seen


def _check_items(module: torch.nn.Module, item: torch.Tensor, config: WorkerConfig) -> list[str]:
    """Whether the example's row is answered alike among others: itself, its values moved on by one and by two."""
    most = num_together(module, config)
    if most == 1 or kind_of(config.model).keeps_rows_apart:
        return []
    batch = Stacker(config.image_mean, config.image_std).stack([item.roll(by) for by in range(most)])
    try:
        return check_rows_do_not_mix(module, batch)
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(
            f"the model failed on the example's item of shape {list(item.shape)}: {cause_of(error)}"
        ) from error


def _example(job: dict[str, Any], shape: tuple[int, ...] | None, config: WorkerConfig) -> Example | None:
    """The user's body, or one of `shape`, or of the inputs."""
    if job["example"] is None:
        if config.inputs is not None:
            items = made_up(config)
            return Example.of_item(items[0]) if items else None
        return None if shape is None else Example.generated(shape)
    return Example(Path(job["example"]).read_bytes(), media_types.of_file(job["example"]), job["example_name"])


def _write_weights(config: WorkerConfig, folder: Path, job: dict[str, Any]) -> None:
    if job["random_weights"]:
        module = build_model(replace(config, weights=None), folder)  # its source says that they are random
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


def main() -> None:
    """Run the job on stdin."""
    # The model's and the handler's code may print, from threads too: only the answer goes to stdout.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(min(4, torch.get_num_threads()))
    try:
        answer = probe(json.loads(sys.stdin.read()))
    except (CheckError, ModelLoadError) as error:
        answer = {"error": str(error)}
    with answers:
        answers.write(json.dumps(answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a handler's threads need not end by themselves


if __name__ == "__main__":
    main()
