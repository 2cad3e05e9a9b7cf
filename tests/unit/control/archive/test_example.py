"""The archive check asks the handler itself, with a generated body or the user's; here without its child process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smartbatch.archive.check import job_of
from smartbatch.archive.probe import probe
from smartbatch.archive.settings import ArchiveSettings, CheckError
from smartbatch.archive.stage import stage

from tests.conftest import AFFINE_MODEL

IMPORTS = "import json\nimport torch\nfrom smartbatch_handler import SmartBatchHandler\n"
OURS = IMPORTS + "class Mine(SmartBatchHandler):\n"
LINES = (
    OURS
    + "    def preprocess_item(self, body, headers):\n"
    + "        return torch.tensor([float(value) for value in bytes(body).decode().split(',')])\n"
)


@pytest.fixture(autouse=True)
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's file is found as it would be there."""
    monkeypatch.syspath_prepend(tmp_path / "staged")


class Check:
    """A check of the affine model with a handler of one's own."""

    def __init__(self, tmp_path: Path, source: Path) -> None:
        self.folder = tmp_path / "staged"
        self.folder.mkdir()
        self._source = source

    def handler(self, text: str) -> Path:
        path = self._source / f"handler_{abs(hash(text))}.py"  # a module of its own: imports are kept
        path.write_text(text)
        return path

    def notes(self, **keys: Any) -> list[str]:
        settings: dict[str, Any] = {
            "model_file": self._source / "model.py",
            "model_path": self._source / "w.pth",
            "input_shape": "4",
            **keys,
        }
        found = probe(job_of(stage(ArchiveSettings(**settings), self.folder, lambda _: None)))["notes"]
        assert isinstance(found, list)
        return found

    def refusal(self, **keys: Any) -> str:
        with pytest.raises(CheckError) as caught:
            self.notes(**keys)
        return str(caught.value)


@pytest.fixture
def check(tmp_path: Path, source: Path) -> Check:
    return Check(tmp_path, source)


def write(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [("preprocess", "preprocess_item"), ("inference", "the model's forward"), ("postprocess", "postprocess_item")],
)
def test_old_method_names_are_refused_and_the_new_ones_said(check: Check, old: str, new: str) -> None:
    message = check.refusal(handler=check.handler(OURS + f"    def {old}(self, data):\n        return data\n"))
    assert f"Mine.{old}() is never called; in a SmartBatchHandler that is {new}" in message


def test_a_helper_of_an_old_name_may_stay(check: Check) -> None:
    text = (
        OURS
        + "    def preprocess(self, body):\n        return super().preprocess_item(body, {})\n"
        + "    def preprocess_item(self, body, headers):\n        return self.preprocess(body)\n"
    )
    assert check.notes(handler=check.handler(text)) == []


@pytest.mark.filterwarnings("ignore")  # importing TorchServe's own handler, and what that imports, warns of many things
def test_a_base_handler_that_cannot_start_is_refused_with_the_reason(check: Check) -> None:
    text = "from ts.torch_handler.base_handler import BaseHandler\nclass Old(BaseHandler):\n    pass\n"
    message = check.refusal(handler=check.handler(text))
    assert "initialize failed with AttributeError: 'NoneType' object has no attribute 'endswith'" in message
    assert "subclass smartbatch_handler.SmartBatchHandler" in message


FOREIGN = (
    "class Own:\n"
    "    def initialize(self, context):\n"
    "        assert context.system_properties['batch_size'] and context.manifest['model']['modelName'] == 'affine'\n"
    "        assert context.model_yaml_config['responseTimeout'] == 300\n"
    "    def handle(self, data, context):\n"
    "        return REPLIES\n"
)


def test_a_handler_of_another_kind_is_run_where_there_is_an_example(check: Check, tmp_path: Path) -> None:
    example = write(tmp_path / "x.bin", b"abc")
    good = check.handler(FOREIGN.replace("REPLIES", "[bytes(row['body']) for row in data]"))
    assert check.notes(handler=good, example=example) == []


def test_a_handler_of_another_kind_is_not_run_on_a_guess(check: Check) -> None:
    (note,) = check.notes(handler=check.handler(FOREIGN.replace("REPLIES", "1 / 0")))
    assert note.endswith("give --example FILE")


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ("b'one'", "handle must give a list of one reply a request; got a bytes for 1"),
        ("[b'one']", "got a list of 1 for 3"),
        ("1 / 0", "handle failed on --example {example} with ZeroDivisionError: division by zero"),
    ],
)
def test_replies_that_torchserve_would_fail_the_batch_for(
    check: Check, tmp_path: Path, replies: str, said: str
) -> None:
    example = write(tmp_path / "x.bin", b"abc")
    message = check.refusal(handler=check.handler(FOREIGN.replace("REPLIES", replies)), example=example)
    assert said.format(example=example) in message


def test_a_file_with_a_function_is_started_and_run(check: Check, tmp_path: Path) -> None:
    example = write(tmp_path / "x.bin", b"abc")
    text = "def handle(data, context):\n    return None if data is None else [b'' for _ in data]\n"
    assert check.notes(handler=check.handler(text), example=example) == []


def test_a_handler_that_reads_something_else_asks_for_an_example(check: Check, tmp_path: Path) -> None:
    handler = check.handler(LINES)
    (note,) = check.notes(handler=handler)
    assert note.startswith("not run: the handler refuses a generated body (400: ")
    assert note.endswith("; give --example FILE")


def test_the_example_is_run_through_the_whole_handler(check: Check, tmp_path: Path) -> None:
    assert check.notes(handler=check.handler(LINES), example=write(tmp_path / "x.csv", b"1,2,3,4")) == []
    assert not (check.folder / "x.csv").exists(), "the example is not shipped"
    assert not list(check.folder.rglob("*.so")), "nor is what the handler writes"


def test_an_example_runs_a_model_of_open_sizes(check: Check, tmp_path: Path) -> None:
    example = write(tmp_path / "x.json", json.dumps({"data": [1, 2, 3, 4]}).encode())
    assert check.notes(input_shape="*", example=example) == []


def test_an_example_that_the_handler_refuses(check: Check, tmp_path: Path) -> None:
    example = write(tmp_path / "x.json", b"{")
    assert f"--example {example} is answered 400: " in check.refusal(example=example)


def test_an_example_that_the_model_fails_on(check: Check, tmp_path: Path) -> None:
    example = write(tmp_path / "x.json", b'{"data": [1, 2, 3]}')
    message = check.refusal(input_shape="*", example=example)
    assert "mat1 and mat2 shapes cannot be multiplied" in message


def test_an_example_shows_rows_that_mix(check: Check, source: Path, tmp_path: Path) -> None:
    (source / "model.py").write_text(AFFINE_MODEL.replace("self.linear(x)", "self.linear(x).softmax(0)"))
    example = tmp_path / "x.npy"
    np.save(example, np.ones(4, np.float32))
    assert "mixes the rows" in check.refusal(input_shape="*", example=example)


def test_rows_that_mix_are_refused_unless_each_runs_alone(check: Check, source: Path) -> None:
    (source / "model.py").write_text(AFFINE_MODEL.replace("self.linear(x)", "self.linear(x).softmax(0)"))
    assert "instead of 1 alone" in check.refusal()


def test_rows_that_would_mix_but_run_alone_are_let_through(check: Check, source: Path) -> None:
    (source / "model.py").write_text(AFFINE_MODEL.replace("self.linear(x)", "self.linear(x).softmax(0)"))
    assert check.notes(overrides={"micro_batch": "1"}) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{'a': torch.zeros(4)}", "it gave a dict"),
        ("(torch.zeros(4), torch.zeros(2))", "it gave a tuple of shapes [4], [2]"),
        ("None", "it gave a NoneType"),
    ],
)
def test_what_preprocess_item_may_not_give(check: Check, given: str, said: str) -> None:
    text = OURS + f"    def preprocess_item(self, body, headers):\n        return {given}\n"
    message = check.refusal(handler=check.handler(text))
    assert "is answered 500: preprocess_item must give one tensor, or a dict of named inputs" in message
    assert said in message


def test_a_preprocess_item_that_breaks_is_refused(check: Check) -> None:
    text = OURS + "    def preprocess_item(self, body, headers):\n        return self.no_such\n"
    message = check.refusal(handler=check.handler(text))
    assert "preprocess_item failed on a generated .npy body with AttributeError" in message
    assert "--example FILE" in message


def test_a_postprocess_item_that_breaks_is_refused(check: Check) -> None:
    text = OURS + "    def postprocess_item(self, output):\n        return output['score']\n"
    assert check.handler(text).name in check.refusal(handler=check.handler(text))


def test_what_a_handler_keeps_for_its_log_is_said(check: Check) -> None:
    text = OURS + "    def _run(self, rows, timer):\n" + "        rows[0].attempt(dict.__getitem__, {}, 'absent')\n"
    message = check.refusal(handler=check.handler(text))
    assert "is answered 500: the server failed on this request" in message
    assert "(KeyError: 'absent')" in message


def test_a_model_of_integer_ids_sees_zeros(check: Check, source: Path) -> None:
    (source / "model.py").write_text(
        "import torch\n\nclass Ids(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.e = torch.nn.Embedding(10, 3)\n"
        "    def forward(self, x):\n        return self.e(x.long()).mean(1)\n"
    )
    torch.save({"e.weight": torch.ones(10, 3)}, source / "w.pth")
    assert check.notes(input_shape="6") == []
