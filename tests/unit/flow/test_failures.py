"""A model's exception in one line: the same, eager and in TorchScript, with the same status."""

from __future__ import annotations

import warnings

import pytest
import torch
from smartbatch_worker.errors import MAX_MESSAGE_CHARS, ModelFailed, ModelRejected
from smartbatch_worker.flow.failures import MAX_DETAIL_CHARS, cause_of
from smartbatch_worker.flow.recover import blame_item

SOURCE = """
import torch

class Failing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
        self.embedding = torch.nn.Embedding(5, 3)
        self.convolution = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x, way: str):
        if way == "linear":
            return self.linear(x)
        if way == "embedding":
            return self.embedding(x.long())
        if way == "convolution":
            return self.convolution(x)
        if way == "view":
            return x.view(-1, 7)
        if way == "value":
            raise ValueError("the size must be\\npositive")
        if way == "raise":
            raise RuntimeError("my own: fault")
        assert x.sum() < 0, "only negative ones"
        return x
"""


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    path = tmp_path_factory.mktemp("model") / "failing.py"
    path.write_text(SOURCE)
    names: dict[str, type[torch.nn.Module]] = {}
    exec(compile(SOURCE, str(path), "exec"), names)
    return names["Failing"]()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory, eager: torch.nn.Module) -> torch.nn.Module:
    """As it is served: saved and loaded again."""
    path = tmp_path_factory.mktemp("program") / "failing.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and what users have
        torch.jit.save(torch.jit.script(eager), path)
        loaded: torch.nn.Module = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return loaded


def failure(model: torch.nn.Module, way: str) -> Exception:
    with pytest.raises(Exception) as caught, torch.inference_mode():  # noqa: PT011  (which, is what is asked)
        model(torch.full((2, 5), 9.0), way)
    return caught.value


@pytest.mark.parametrize(
    ("way", "status", "said"),
    [
        ("linear", 422, "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x5 and 4x2)"),
        ("embedding", 422, "index out of range in self"),  # IndexError eager, RuntimeError in TorchScript
        ("convolution", 422, "but got input of size: [2, 5]"),
        ("view", 422, "RuntimeError: shape '[-1, 7]' is invalid for input of size 10"),
        ("value", 422, "ValueError: the size must be"),
        ("raise", 500, "my own: fault"),
        ("assert", 500, "AssertionError: only negative ones"),
    ],
)
def test_torchscript_says_what_eager_says(
    eager: torch.nn.Module, scripted: torch.nn.Module, way: str, status: int, said: str
) -> None:
    for model in (eager, scripted):
        error = blame_item(failure(model, way), (5,))
        assert error.status == status, error.message
        assert error.message.startswith("the model failed on this item of shape [5]: ")
        assert error.message.endswith(said)
        assert not {".py", "TorchScript", "/"} & set(error.message.split())


def test_messages_stay_short_and_name_no_files() -> None:
    long = (
        'The following operation failed in the TorchScript interpreter.\n  File "/srv/secret/model.py"\n~ <--- HERE\n'
    )
    cause = cause_of(RuntimeError(f"{long}RuntimeError: shape {'x' * 10_000}"))
    assert len(cause.detail) == MAX_DETAIL_CHARS
    assert "/srv" not in str(cause)
    assert len(blame_item(RuntimeError("size " * 10_000), (5,)).message) <= MAX_MESSAGE_CHARS


def test_an_unknown_end_is_still_the_last_thing_said() -> None:
    error = RuntimeError("The following operation failed in the TorchScript interpreter.\nsomething else\nat the end\n")
    assert str(cause_of(error)) == "RuntimeError: at the end"


def test_a_models_own_kind_of_error_keeps_its_status() -> None:
    class BadInput(ValueError):
        """As a model.py may define it."""

    assert isinstance(blame_item(BadInput("shape is odd"), (5,)), ModelRejected)
    assert isinstance(blame_item(KeyError("shape"), (5,)), ModelFailed)
    assert isinstance(blame_item(RuntimeError(""), (5,)), ModelFailed)
