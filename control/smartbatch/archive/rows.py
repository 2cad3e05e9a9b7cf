"""Whether a model answers an item the same alone and among others: in service, the others are strangers'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from smartbatch_worker.flow.split import AnswerSplitter
from smartbatch_worker.forward.batches import Batch, each, num_items

from smartbatch.archive.settings import CheckError

# Of the largest value of an answer. Another number of rows is another order of sums: 1e-5 in fp32, but a deep network
# makes more of it, and half precision has 3 to 4 digits less. A model that mixes rows is off by a tenth and more.
TOLERANCE = 1e-3
HALF_TOLERANCE = 5e-2


@dataclass(frozen=True, slots=True)
class _Difference:
    """Between one item's answers."""

    relative: float
    """Of numbers: to the largest; of whole numbers: the share that differ; infinite for answers of other shapes."""
    words: str


def check_rows_do_not_mix(module: torch.nn.Module, batch: Batch) -> list[str]:
    """Run a batch, [N, ...] or named ones, together and row by row, in the precision that the module has.

    Returns:
        Notes: what could not be compared.

    Raises:
        CheckError: a row's answer depends on the others.
    """
    splitter = AnswerSplitter()
    count = num_items(batch)
    together = answers_of(module, splitter, batch, list(range(count)))
    alone = [answers_of(module, splitter, batch, [index])[0] for index in range(count)]
    tolerance = _tolerance(module)
    if _difference(answers_of(module, splitter, batch, [0])[0], alone[0]).relative > tolerance:
        return ["the model answers the same item otherwise each time: not checked that rows do not mix"]
    worst = max((_difference(*pair) for pair in zip(together, alone, strict=True)), key=lambda found: found.relative)
    if worst.relative > tolerance:
        raise CheckError(
            f"the model mixes the rows of a batch: among {count} items, one is answered {worst.words} "
            f"(allowed: {tolerance:g}). Clients' answers would depend on strangers' requests. Is something computed "
            "over dimension 0, as softmax(0) is, or does a batch norm train? --set micro_batch=1 runs items one by one"
        )
    return []


def check_padding_is_not_seen(module: torch.nn.Module, padded: Any, alone: Any, told: str) -> None:
    """Compare one item's answers.

    Raises:
        CheckError: it is answered otherwise where it was padded.
    """
    difference = _difference(padded, alone)
    if difference.relative > _tolerance(module):
        raise CheckError(
            f"the model sees what an item is padded with: {told} is answered {difference.words} "
            f"(allowed: {_tolerance(module):g}). An item's answer would depend on how long its neighbours are. Does a "
            "mask tell the model where the item ends? Without pad, only items of one length share a forward"
        )


def answers_of(module: torch.nn.Module, splitter: AnswerSplitter, batch: Batch, rows: list[int]) -> list[Any]:
    """Some rows of a batch, run together and cut."""

    def run(count: int) -> Any:
        wanted = torch.tensor([rows[index % len(rows)] for index in range(count)])
        return module(each(lambda tensor: tensor[wanted], batch))  # a copy: a model may write into its input

    with torch.inference_mode():
        return splitter.split(run(len(rows)), len(rows), run)


def _tolerance(module: torch.nn.Module) -> float:
    dtypes = {tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()}
    return HALF_TOLERANCE if dtypes & {torch.float16, torch.bfloat16} else TOLERANCE


def _difference(among: Any, alone: Any) -> _Difference:
    worst = _Difference(0.0, "the same")
    ours, others = list(_leaves(among)), list(_leaves(alone))
    if [leaf.shape for leaf in ours] != [leaf.shape for leaf in others]:
        shapes = [", ".join(str(list(leaf.shape)) for leaf in leaves) for leaves in (ours, others)]
        return _Difference(float("inf"), f"in shape {shapes[0]} instead of {shapes[1]} alone")
    for one, other in zip(ours, others, strict=True):
        found = _difference_of_tensors(one, other)
        worst = max(worst, found, key=lambda difference: difference.relative)
    return worst


def _difference_of_tensors(among: torch.Tensor, alone: torch.Tensor) -> _Difference:
    if among.numel() == 0:
        return _Difference(0.0, "the same")
    if alone.is_complex():
        among, alone = torch.view_as_real(among), torch.view_as_real(alone)
    if not alone.is_floating_point():
        share = (among != alone).double().mean().item()
        return _Difference(share, f"with {share:.0%} of its whole numbers other than alone")
    among, alone = among.double().flatten(), alone.double().flatten()
    # Where both are NaN, or the same infinity, they agree; where one is, nothing is further apart.
    distance = (among - alone).abs().masked_fill((among == alone) | (among.isnan() & alone.isnan()), 0)
    distance = distance.nan_to_num(nan=float("inf"))
    at = int(distance.argmax())
    largest = alone[alone.isfinite()].abs().max().item() if bool(alone.isfinite().any()) else 0.0
    relative = distance[at].item() / largest if largest else (float("inf") if distance[at] > 0 else 0.0)
    words = f"{among[at]:.6g} instead of {alone[at]:.6g} alone, which is {relative:.2g} of the largest value"
    return _Difference(relative, words)


def _leaves(answer: Any) -> Iterator[torch.Tensor]:
    """The tensors and numbers of one item's answer, in order."""
    if isinstance(answer, torch.Tensor):
        yield answer
    elif isinstance(answer, Mapping):
        for key in sorted(answer, key=str):
            yield from _leaves(answer[key])
    elif isinstance(answer, (list, tuple)):
        for entry in answer:
            yield from _leaves(entry)
    elif isinstance(answer, np.ndarray) and answer.dtype.kind in "biufc":
        yield torch.from_numpy(answer)
    elif isinstance(answer, (int, float, complex)):
        yield torch.tensor(answer)
