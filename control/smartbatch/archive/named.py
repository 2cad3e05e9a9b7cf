"""The archive check of a model of named inputs: rows do not mix, padding is not seen, what of an output is cut back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import describe_inputs
from smartbatch_worker.flow.batch import Item
from smartbatch_worker.flow.batchers import NamedBatcher
from smartbatch_worker.flow.examples import stretched
from smartbatch_worker.flow.failures import cause_of
from smartbatch_worker.flow.inputs import NamedInputs
from smartbatch_worker.flow.lengths.padding import LetterSizes
from smartbatch_worker.flow.split import AnswerSplitter
from smartbatch_worker.flow.stack import Stacker
from smartbatch_worker.forward.batches import ByName

from smartbatch.archive.model import num_together
from smartbatch.archive.rows import answers_of, check_padding_is_not_seen, check_rows_do_not_mix
from smartbatch.archive.settings import CheckError
from smartbatch.archive.tensors import Tensors, outputs_of


@dataclass(slots=True)
class Seen:
    """What the check saw."""

    notes: list[str] = field(default_factory=list)
    outputs: Tensors = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    """Of the handler's configuration, found out."""


def check_named(config: WorkerConfig, module: torch.nn.Module, items: Sequence[NamedInputs]) -> Seen:
    """Run the model on items of an example.

    Args:
        config: its inputs.
        module: as `build_model` gives it.
        items: at least one.

    Raises:
        CheckError: it does not take them, mixes rows, or sees what an item is padded with.
    """
    seen = Seen()
    look = _Look(config, ByName(module))
    item = items[0]
    first = other = look.answer(item)
    declared: dict[str, list[Any]] = {}
    for letter, size in look.padding.sizes_of(item).items():
        if size == 1:
            seen.notes.append(f"the example is of {letter} 1: not checked that what is padded is not seen")
            continue
        shorter = stretched(item, config, {**look.padding.sizes_of(item), letter: size // 2})
        other = look.answer(shorter)
        _find_letter(letter, first, other, declared)
    if declared and not config.outputs:
        seen.keys["outputs"] = declared.get("", declared)
        config = replace(config, outputs=tuple((name, tuple(sizes)) for name, sizes in declared.items()))
        look = _Look(config, look.module)
    for letter, size in look.padding.sizes_of(item).items():
        if size > 1:
            look.check_padding(item, stretched(item, config, {**look.padding.sizes_of(item), letter: size // 2}))
    if num_together(module, config) > 1:
        seen.notes += check_rows_do_not_mix(look.module, look.stack(_variants(item, num_together(module, config))))
    seen.outputs = outputs_of(first, other)
    return seen


class _Look:
    """Runs items as a worker would."""

    def __init__(self, config: WorkerConfig, module: torch.nn.Module) -> None:
        self._config, self.module = config, module
        self._batcher = NamedBatcher(config, Stacker(config.image_mean, config.image_std))
        self.padding = self._batcher.padding

    def stack(self, items: Sequence[NamedInputs]) -> dict[str, torch.Tensor]:
        return self._batcher.stack([Item(item, 0, 0) for item in items])

    def answer(self, item: NamedInputs) -> Any:
        """Of one item alone."""
        return self._answers([item])[0]

    def check_padding(self, longer: NamedInputs, shorter: NamedInputs) -> None:
        """Whether the shorter is answered beside the longer as alone."""
        together = self._answers([shorter, longer])[0]
        told = (
            f"one of {_spelled(self.padding.sizes_of(shorter))} beside one of {_spelled(self.padding.sizes_of(longer))}"
        )
        check_padding_is_not_seen(self.module, together, self.answer(shorter), told)

    def _answers(self, items: Sequence[NamedInputs]) -> list[Any]:
        batch = self.stack(items)
        try:
            answers = answers_of(self.module, AnswerSplitter(), batch, list(range(len(items))))
        except CheckError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in batch.items())
            raise CheckError(
                f"the model failed on {shapes} with {cause_of(error)}. Are its inputs "
                f"{describe_inputs(self._config.inputs or ())}?"
            ) from error
        return self._batcher.cut_back(answers, [Item(item, 0, 0) for item in items])


def _find_letter(letter: str, first: Any, other: Any, declared: dict[str, list[Any]]) -> None:
    """Note which dimensions of outputs changed with the letter."""
    parts, others = _parts(first), _parts(other)
    for name, tensor in parts.items():
        its_other = others.get(name)
        if its_other is None or its_other.ndim != tensor.ndim or its_other.shape == tensor.shape:
            continue
        sizes: list[Any] = declared.setdefault(name, list(tensor.shape))
        for axis, (size, its_size) in enumerate(zip(tensor.shape, its_other.shape, strict=True)):
            if size != its_size:
                sizes[axis] = letter


def _parts(answer: Any) -> dict[str, torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        return {"": answer}
    entries = answer.items() if isinstance(answer, dict) else enumerate(answer) if isinstance(answer, list) else ()
    return {str(name): part for name, part in entries if isinstance(part, torch.Tensor)}


def _variants(item: NamedInputs, count: int) -> list[NamedInputs]:
    """The item, and others of its shapes: its numbers moved on."""
    return [
        {name: tensor.flatten().roll(by).view(tensor.shape) for name, tensor in item.items()} for by in range(count)
    ]


def _spelled(sizes: LetterSizes) -> str:
    return ", ".join(f"{letter} {size}" for letter, size in sizes.items())
