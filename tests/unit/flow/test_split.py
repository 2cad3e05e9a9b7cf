"""split: every item its own answer, or all of them an error."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from smartbatch_worker.errors import ModelFailed, RowError, WrongAnswerCount
from smartbatch_worker.flow.recover import MemoryCeilings, run_isolated
from smartbatch_worker.flow.split import AnswerSplitter

CPU = torch.device("cpu")
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
    assert {name: part.tolist() for name, part in answer["c"].items()} == {"double": [3.0], "more": [4.0]}


@dataclass
class Answer:
    """As a user would write one."""

    logits: torch.Tensor
    mask: torch.Tensor | None = None


@dataclass
class HubAnswer(OrderedDict[str, Any]):
    """As transformers' ModelOutput is made: a mapping of those of its fields that were set."""

    logits: torch.Tensor | None = None
    loss: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.update({key: value for key, value in vars(self).items() if value is not None})


@pytest.mark.parametrize("kind", [Answer, HubAnswer])
def test_dataclasses_are_dicts_of_what_is_set(kind: type) -> None:
    answers = Runner(lambda x: kind(logits=x))([3.0, 4.0])
    assert [{key: value.tolist() for key, value in answer.items()} for answer in answers] == [
        {"logits": [3.0]},
        {"logits": [4.0]},
    ]


def test_parts_that_are_none_are_left_out() -> None:
    run = Runner(lambda x: (x, None, {"a": None, "b": x, "c": (None, x + 1)}))
    first, second = run([3.0, 4.0])
    assert first == [torch.tensor([3.0]), {"b": torch.tensor([3.0]), "c": [torch.tensor([4.0])]}]
    assert second[1]["c"] == [torch.tensor([5.0])]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_of_a_tensor_and_none_is_a_part_and_nothing(count: int) -> None:
    """Read as an entry an item, it would hand all rows to the first of two."""
    answers = Runner(lambda x: [x, None])([float(n) for n in range(count)])
    assert [[part.tolist() for part in answer] for answer in answers] == [[[float(n)]] for n in range(count)]


def test_an_entry_that_is_none_is_that_items_answer() -> None:
    run = Runner(lambda x: [None if row < 2 else "text" for row in x])
    assert run([1.0, 2.0, 0.0]) == [None, "text", None]


def test_detections_of_any_number() -> None:
    run = Runner(lambda x: [{"boxes": torch.zeros(int(row), 4)} for row in x])
    assert [len(answer["boxes"]) for answer in run([0.0, 2.0, 5.0])] == [0, 2, 5]
    assert run.forwards == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_detections_as_items_are_still_each_items_own(count: int) -> None:
    run = Runner(lambda x: [{"boxes": row.expand(count, 4), "mask": None} for row in x])
    for _ in range(2):
        answers = run([float(n) for n in range(count)])
        assert [answer["boxes"].tolist() for answer in answers] == [[[float(n)] * 4] * count for n in range(count)]
        assert all(set(answer) == {"boxes"} for answer in answers)
    assert run.forwards == 4, "which way is found out once"


def test_a_list_of_dicts_that_are_parts_is_refused() -> None:
    """With two items it is as long as one entry an item would be, and each would get both rows of one part."""
    run = Runner(lambda x: [{"a": x}, {"a": x + 1}])
    for count, said in ((2, "a list of 2 dicts whatever the number of items"), (3, "took 3 items and gave 2 answers")):
        with pytest.raises(ModelFailed, match=said):
            run([float(n) for n in range(count)])


def test_a_list_known_to_be_entries_is_never_read_as_parts() -> None:
    lost: list[torch.Tensor] = []
    run = Runner(lambda x: [row.repeat(2, 1) for row in x][len(lost) :])
    assert len(run([1.0, 2.0])) == 2
    lost.append(torch.zeros(1))
    with pytest.raises(WrongAnswerCount, match="took 2 items and gave 1 answers, tensors of 2 rows"):
        run([1.0, 2.0])


def test_rows_of_a_nested_tensor_are_each_items_own() -> None:
    run = Runner(
        lambda x: {"a": torch.nested.as_nested_tensor([row.repeat(int(row)) for row in x], layout=torch.jagged)}
    )
    assert [answer["a"].tolist() for answer in run([1.0, 3.0])] == [[1.0], [3.0, 3.0, 3.0]]


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
    answers = run_isolated(run, [float(n) for n in range(count)], (1,), MemoryCeilings(), splits.append, CPU)
    assert len(answers) == count
    assert {(type(answer).status, answer.code) for answer in answers} == {(500, "model_failed")}
    assert isinstance(answers[0], RowError)
    assert f"took {count} items" in answers[0].message or "must give" in answers[0].message
    assert (splits, run.forwards) == ([], 1)


def test_a_list_whose_length_fits_some_batch_is_never_cut_to_it() -> None:
    """Two tensors of all rows: cut to two items, each would have got both rows."""
    run = Runner(lambda x: [x[: len(x) - 1], x[: len(x) - 1]])
    answers = run_isolated(run, [float(n) for n in range(16)], (1,), MemoryCeilings(), lambda _: None, CPU)
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
    assert [answer["pair"]["double"].tolist() for answer in first] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float64, torch.complex64]
)
def test_types_stay_as_they_are(dtype: torch.dtype) -> None:
    (answer,) = Runner(lambda x: {"a": x.to(dtype)})([1.0])
    assert (answer["a"].dtype, answer["a"].shape) == (dtype, (1,))


def test_views_that_numpy_does_not_know_are_made_real() -> None:
    (answer,) = Runner(lambda x: {"conj": torch.complex(x, x).conj(), "neg": torch.complex(x, x).conj().imag})([1.0])
    assert answer["conj"].numpy().tolist() == [1 - 1j]
    assert answer["neg"].numpy().tolist() == [-1.0]


class Cache:
    """As transformers keeps keys and values in."""


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda x: {"logits": x, "past": Cache()}, "must give .* it gave a Cache as 'past'"),
        (lambda x: {"logits": x, "loss": x.mean()}, r"took 2 items and gave an output of shape \[\] as 'loss'"),
        (
            lambda x: {"a": (x, {"b": [x, x, x[:1]]})},
            "took 2 items and gave 3 answers, tensors of 2, 2, 1 rows as 'a.1.b'",
        ),
        (lambda x: x.to_sparse(), "must give dense tensors; it gave a sparse one"),
        (lambda x: {"a": None}, "took 2 items and gave an empty dict"),
        (lambda x: (None,), "took 2 items and gave an empty tuple"),
        (lambda x: x.numpy(), "it gave a ndarray"),
        (lambda x: Answer, "it gave a type"),
        (lambda x: {"a": [x] * 2} if len(x) == 2 else {"b": x}, "another structure for another number of items"),
    ],
)
def test_what_cannot_be_cut_says_where_and_why(model: Model, said: str) -> None:
    with pytest.raises(ModelFailed, match=said):
        Runner(model)([1.0, 2.0])


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
