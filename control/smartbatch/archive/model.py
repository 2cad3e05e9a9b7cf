"""The archive check's look at the model: run as served, on one item and on several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import concrete_shape
from smartbatch_worker.errors import ModelFailed, WrongAnswerCount
from smartbatch_worker.flow.failures import cause_of
from smartbatch_worker.flow.split import AnswerSplitter
from smartbatch_worker.forward.managed import ManagedModel
from smartbatch_worker.models import kind_of
from smartbatch_worker.models.load import max_batch_size

from smartbatch.archive.rows import check_rows_do_not_mix
from smartbatch.archive.settings import CheckError
from smartbatch.archive.tensors import Tensors, outputs_of

NUM_ITEMS = 3  # more than one, and no size that another dimension is likely to have
_ANY_SIZE = (224, 224)  # of an image, for a model that takes each in its own
_OTHER_SIDE = 32  # pixels added to see whether the model takes images of another size


def num_together(module: torch.nn.Module, config: WorkerConfig) -> int:
    """How many items of the check a worker may run in one forward."""
    return 1 if config.micro_batch == 1 else min(NUM_ITEMS, max_batch_size(module) or NUM_ITEMS)


def check_model(
    config: WorkerConfig,
    folder: Path,
    module: torch.nn.Module,
    shape: tuple[int, ...],
    job: dict[str, Any],
    found: dict[str, Any],
) -> tuple[list[str], Tensors]:
    """Run the model as served on items of `shape`; what it shows goes into `found`.

    Returns:
        Notes, and the model's outputs.
    """
    notes: list[str] = []
    model = _as_served(config, folder)
    most = num_together(module, config)
    with model.ready():
        for count in sorted({1, most}):
            output, answers = _run(model, shape, count)
        other = _answer_of_another_size(model, config, shape, answers[0])
        outputs = outputs_of(answers[0], other, are_lists=isinstance(output, list))
    _check_labels(answers[0], job["num_labels"])
    if most > 1 and not kind_of(config.model).keeps_rows_apart:
        notes += check_rows_do_not_mix(module, _generated(shape, most))
    is_image = config.input_shape is not None and len(shape) == 3 and None in config.input_shape
    if is_image and "input_shape" not in job["section"] and not _takes_other_sizes(module, shape):
        found["input_shape"] = list(shape)
        notes.append(f"the model takes {list(shape)} only: recorded as its input_shape")
    return notes, outputs


def example_shape(config: WorkerConfig) -> tuple[int, ...] | None:
    """A shape to try: open sizes of an image are those it is shown in; other open sizes are anyone's guess."""
    return concrete_shape(config.input_shape, config.image_size or _ANY_SIZE)


def as_checked(config: WorkerConfig) -> dict[str, Any]:
    """Keys that let a worker answer on this machine's CPU, at once: without calibration, compilation and idle unload.

    fp16 is for GPUs: on a CPU many operations lack it, and that says nothing about the archive.
    """
    precision = "fp32" if config.precision == "fp16" else config.precision
    keys: dict[str, Any] = {"device": "cpu", "precision": precision, "compile": "off", "idle_unload_s": 0.0}
    return {**keys, "micro_batch": 1 if config.micro_batch == 1 else NUM_ITEMS, "threads": torch.get_num_threads()}


def _as_served(config: WorkerConfig, folder: Path) -> ManagedModel:
    """The model as a worker runs it."""
    return ManagedModel(
        replace(config, **as_checked(config)),
        folder,
        folder,  # which is gone with the check
        torch.device("cpu"),
        NUM_ITEMS,
        on_load=lambda _: None,
        on_unload=lambda: None,
    )


def _generated(shape: tuple[int, ...], count: int) -> torch.Tensor:
    """[count, *shape], between 0 and 1."""
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(0))


def _answer_of_another_size(model: ManagedModel, config: WorkerConfig, shape: tuple[int, ...], answer: Any) -> Any:
    """Of one item whose free sizes are others; `answer` itself where the model takes none, or has no free size."""
    declared = config.input_shape
    if declared is None or None not in declared:
        return answer
    larger = (size if fixed else size + _OTHER_SIDE for size, fixed in zip(shape, declared, strict=True))
    try:
        return _run(model, tuple(larger), 1)[1][0]
    except CheckError:
        return answer


def _run(model: ManagedModel, shape: tuple[int, ...], count: int) -> tuple[Any, list[Any]]:
    """The output for `count` items, and the answers cut from it."""

    def run(size: int) -> Any:
        return model.forward(_generated(shape, size))

    try:
        output = run(count)
    except Exception as error:
        raise CheckError(
            f"the model failed on {count} item{'s' * (count > 1)} of shape {list(shape)} with "
            f"{cause_of(error)}. Does --input-shape say what one item is, without the batch?"
        ) from error
    try:
        return output, AnswerSplitter().split(output, count, run)
    except WrongAnswerCount as error:
        raise CheckError(f"{error}; the answer's first dimension must be the batch") from error
    except ModelFailed as error:
        raise CheckError(f"{error}; leave out what is no answer (None does), or give it as a tensor") from error


def _takes_other_sizes(module: torch.nn.Module, shape: tuple[int, ...]) -> bool:
    channels, height, width = shape
    try:
        with torch.inference_mode():
            module(torch.zeros(1, channels, height + _OTHER_SIDE, width + _OTHER_SIDE))
    except Exception:
        return False
    return True


def _check_labels(answer: Any, num_labels: int | None) -> None:
    scores = answer.get("logits") if isinstance(answer, dict) else answer
    if num_labels is None or not isinstance(scores, torch.Tensor) or scores.ndim != 1:
        return
    if len(scores) != num_labels:
        raise CheckError(f"the model answers {len(scores)} classes, and there are {num_labels} labels")
