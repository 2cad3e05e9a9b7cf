"""The child process of the archive check: runs as `python -m smartbatch.archive.probe`, job on stdin.

Reads one JSON job, writes one line of JSON: {"error": message}, or {"found": handler keys, "notes": lines, "tensors":
what the Open Inference Protocol tells of the model}.
The staged folder is first on the path, so what is imported is what ships.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow.batch import Stacker
from smartbatch_worker.flow.failures import cause_of
from smartbatch_worker.models import kind_of
from smartbatch_worker.models.load import ModelLoadError, build_model

from smartbatch.archive.context import start_context
from smartbatch.archive.handler import Example, StartedHandler, check_entry_point
from smartbatch.archive.model import NUM_ITEMS, as_checked, check_model, example_shape, num_together
from smartbatch.archive.rows import check_rows_do_not_mix
from smartbatch.archive.settings import CheckError
from smartbatch.archive.stage import CONFIG_FILE
from smartbatch.archive.tensors import Tensors, inputs_of
from smartbatch.client import encode_body

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
    exported_shape = getattr(module, "input_shape", None) if kind_of(config.model).tells_input_shape else None
    if "input_shape" not in job["section"] and isinstance(exported_shape, tuple):
        found["input_shape"] = list(exported_shape)
        config = replace(config, input_shape=exported_shape)
    shape = example_shape(config)
    outputs: Tensors = []
    if shape is not None:
        model_notes, outputs = check_model(config, folder, module, shape, job, found)
        notes += model_notes
    example = _example(job, shape)
    section = {**job["section"], "input_shape": config.as_dict()["input_shape"], **as_checked(config)}
    handler, handler_notes = _check_handler(job, folder, section, module, example)
    notes += handler_notes
    tensors = {
        "inputs": inputs_of(found.get("input_shape", config.input_shape)) if handler.reads_tensors else [],
        "outputs": outputs if handler.answers_tensors else [],
    }
    return {"found": found, "notes": notes, "tensors": tensors}


def _check_handler(
    job: dict[str, Any], folder: Path, section: dict[str, Any], module: torch.nn.Module, example: Example | None
) -> tuple[StartedHandler, list[str]]:
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
                return handler, [
                    f"not run: input_shape {section['input_shape']} leaves sizes open; give --example FILE"
                ]
            return handler, _ask(handler, example, module, section)
        except CheckError as error:
            raise CheckError(str(error).replace(scratch, str(folder))) from error


def _ask(handler: StartedHandler, example: Example, module: torch.nn.Module, section: dict[str, Any]) -> list[str]:
    notes: list[str] = []
    if handler.ours is not None:
        items = handler.items_of(example)
        if isinstance(items, str):
            return [f"not run: the handler refuses a generated body ({items}); give --example FILE"]
        if example.name is not None and items:
            notes += _check_items(module, items[0], WorkerConfig.resolve(section, {}))
    elif example.name is None:
        return ["not run: the handler is no SmartBatchHandler and what it reads is unknown; give --example FILE"]
    for count in (1, NUM_ITEMS):
        handler.ask(example, count)
    return notes


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


def _example(job: dict[str, Any], shape: tuple[int, ...] | None) -> Example | None:
    """The user's body, or one of `shape`."""
    if job["example"] is None:
        return None if shape is None else Example.generated(shape)
    body, content_type = encode_body(Path(job["example"]))
    other = mimetypes.guess_type(job["example_name"])[0]  # of what only a handler of the user's own reads
    unknown = content_type == "application/octet-stream"
    return Example(body, other if unknown and other else content_type, job["example_name"])


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
