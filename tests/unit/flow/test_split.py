"""split: every item its own answer, or all of them an error."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from smartbatch_worker.errors import ModelFailed, RowError
from smartbatch_worker.flow.recover import MemoryCeilings, run_isolated
from smartbatch_worker.flow.split import AnswerSplitter

Model = Callable[[torch.Tensor], Any]
Pair = namedtuple("Pair", "double more")


def parts(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * 2, x + 1]


def entries(x: torch.Tensor) -> list[torch.Tensor]:
    """One tensor of two rows an item, as a detector gives its boxes."""
    return [torch.stack([row * 2, row + 1]) for row in x]


class Runner:
    """A model that answers out of one buffer, as the worst may, and counts its forwards."""

    def __init__(self, model: Model) -> None:
        self.model, self.splitter, self.forwards = model, AnswerSplitter(), 0
        self.buffer = torch.empty(64, 1)

    def forward(self, values: list[float]) -> Any:
        self.forwards += 1
        batch = self.buffer[: len(values)]
        batch.copy_(torch.tensor(values).unsqueeze(1))
        return self.model(batch)

    def __call__(self, values: Any) -> list[Any]:
        values = list(values)

        def run_again(count: int) -> Any:
            return self.forward([values[index % len(values)] for index in range(count)])

        return self.splitter.split(self.forward(values), len(values), run_again)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("first", [1, 2, 5])
@pytest.mark.parametrize("model", [parts, entries])
def test_a_list_is_read_as_the_model_means_it(model: Model, first: int, count: int) -> None:
    run = Runner(model)
    for values in ([float(n) for n in range(first)], [float(n + 7) for n in range(count)]):
        flat = [torch.stack(list(answer)).flatten().tolist() for answer in run(values)]
        assert flat == [[2 * value, value + 1] for value in values]


def test_which_way_is_found_out_once() -> None:
    run = Runner(parts)
    run([1.0, 2.0])  # two tensors of two rows: that may be one a row
    assert run.forwards == 3
    for _ in range(3):
        run([1.0, 2.0])
    assert run.forwards == 6


def test_structures_keep_their_form() -> None:
    run = Runner(lambda x: {"a": x[:, 0], "b": (x.long(), [x, -x]), "c": Pair(x, x + 1)})
    (answer, _, _) = run([3.0, 4.0, 5.0])
    assert answer["a"].tolist() == 3.0
    assert [part.tolist() for part in answer["b"][1]] == [[3.0], [-3.0]]
    assert answer["b"][0].dtype == torch.int64
    assert [part.tolist() for part in answer["c"]] == [[3.0], [4.0]]


def test_detections_of_any_number() -> None:
    run = Runner(lambda x: [{"boxes": torch.zeros(int(row), 4)} for row in x])
    assert [len(answer["boxes"]) for answer in run([0.0, 2.0, 5.0])] == [0, 2, 5]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.new_zeros(3),
        lambda x: x.sum(),
        lambda x: [1, 2, 3],
        lambda x: [x[:1], x[:1], x[:0]],
        lambda x: (x, x.new_zeros(3)),
        lambda x: {"a": x, "b": x.new_zeros(3, 1)},
        lambda x: [],
        lambda x: (),
        lambda x: "abc",
        lambda x: None,
    ],
)
def test_a_wrong_length_fails_all_at_once_with_both_numbers(model: Model, count: int) -> None:
    run = Runner(model)
    splits: list[str] = []
    answers = run_isolated(run, [float(n) for n in range(count)], (1,), MemoryCeilings(), splits.append)
    assert len(answers) == count
    assert {(type(answer).status, answer.code) for answer in answers} == {(500, "model_failed")}
    assert isinstance(answers[0], RowError)
    assert f"took {count} items" in answers[0].message or "must give" in answers[0].message
    assert (splits, run.forwards) == ([], 1)


def test_a_list_whose_length_fits_some_batch_is_never_cut_to_it() -> None:
    """Two tensors of all rows: cut to two items, each would have got both rows."""
    run = Runner(lambda x: [x[: len(x) - 1], x[: len(x) - 1]])
    answers = run_isolated(run, [float(n) for n in range(16)], (1,), MemoryCeilings(), lambda _: None)
    assert all(isinstance(answer, ModelFailed) for answer in answers)
    assert "2 answers, tensors of 15, 15 rows" in answers[0].message


def test_answers_are_in_memory_of_their_own() -> None:
    kept = torch.zeros(8, 1)

    def into_a_kept_buffer(x: torch.Tensor) -> Any:
        kept[: len(x)] = x
        return {"kept": kept[: len(x)], "input": x, "pair": Pair(x, x)}

    run = Runner(into_a_kept_buffer)
    first = run([1.0, 2.0])
    run([8.0, 9.0])
    assert [answer["kept"].tolist() for answer in first] == [[1.0], [2.0]]
    assert [answer["input"].tolist() for answer in first] == [[1.0], [2.0]]
    assert [answer["pair"][0].tolist() for answer in first] == [[1.0], [2.0]]


def test_half_precision_answers_are_float32() -> None:
    assert Runner(lambda x: x.to(torch.bfloat16))([1.0])[0].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torchscript_lists_as_well() -> None:
    class Parts(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x * 2, x + 1]

    run = Runner(torch.jit.script(Parts()))
    assert [[part.tolist() for part in answer] for answer in run([1.0, 5.0, 9.0])] == [
        [[2.0], [2.0]],
        [[10.0], [6.0]],
        [[18.0], [10.0]],
    ]
