"""The archive check of models with named inputs: declared, told by a program, refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from smartbatch.archive.check import job_of
from smartbatch.archive.probe import probe
from smartbatch.archive.settings import ArchiveSettings, CheckError
from smartbatch.archive.stage import stage
from smartbatch.errors import UsageError

MASKED = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 4)

    def forward(self, ids, mask):
        x = self.embed(ids) * mask.unsqueeze(-1)
        return {"tokens": x, "mean": x.sum(1) / mask.sum(1, keepdim=True)}
"""
INPUTS = ("ids:int64:L:0", "mask:int64:L:0")


@pytest.fixture(autouse=True)
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's file is found as it would be there."""
    monkeypatch.syspath_prepend(tmp_path / "staged")


def checked(tmp_path: Path, source: str, **keys: Any) -> dict[str, Any]:
    (tmp_path / "model.py").write_text(source)
    example = tmp_path / "request.json"
    example.write_text(json.dumps({"inputs": {"ids": [7, 3, 9, 4, 1], "mask": [1] * 5}}))
    settings: dict[str, Any] = {"model_file": tmp_path / "model.py", "name": "net", "example": example, **keys}
    (tmp_path / "staged").mkdir()
    return probe(job_of(stage(ArchiveSettings(**settings), tmp_path / "staged", lambda _: None)))


def test_which_outputs_are_as_long_as_the_input_is_found_out(tmp_path: Path) -> None:
    answer = checked(tmp_path, MASKED, inputs=INPUTS)
    assert answer["found"] == {"outputs": {"tokens": ["L", 4]}}
    assert answer["notes"] == []
    assert answer["tensors"]["inputs"][0] == {"name": "ids", "datatype": "INT64", "shape": [-1, -1]}
    assert answer["tensors"]["outputs"][0] == {"name": "tokens", "datatype": "FP32", "shape": [-1, -1, 4]}
    assert (tmp_path / "staged" / "example.json").is_file()


def test_a_model_that_sees_its_padding_is_refused(tmp_path: Path) -> None:
    blind = MASKED.replace(" * mask.unsqueeze(-1)", "")
    with pytest.raises(CheckError, match=r"sees what an item is padded with: one of L 2 beside one of L 5"):
        checked(tmp_path, blind, inputs=INPUTS)


def test_without_a_pad_it_is_taken(tmp_path: Path) -> None:
    blind = MASKED.replace(" * mask.unsqueeze(-1)", "")
    assert checked(tmp_path, blind, inputs=("ids:int64:L", "mask:int64:L"))["found"] == {}


def test_rows_that_mix_are_refused(tmp_path: Path) -> None:
    mixing = MASKED.replace('"mean": x.sum(1)', '"mean": x.softmax(0).sum(1)')
    with pytest.raises(CheckError, match="mixes the rows"):
        checked(tmp_path, mixing, inputs=("ids:int64:L", "mask:int64:L"))


def test_several_arguments_must_be_declared(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"forward takes ids, mask: declare each .* --input ids:int64:L:0"):
        checked(tmp_path, MASKED)


def test_without_an_example_it_says_that_it_made_numbers_up(tmp_path: Path) -> None:
    (note,) = checked(tmp_path, MASKED, inputs=INPUTS, example=None)["notes"]
    assert "made-up numbers" in note


def test_wrong_names_are_the_models_failure_in_words(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"the model failed on id \[1, 5\].*Are its inputs id \(int64"):
        checked(
            tmp_path,
            MASKED.replace("forward(self, ids, mask)", "forward(self, ids, mask=None)"),
            inputs=("id:int64:L:0",),
            example=example_of(tmp_path, {"id": [1, 2, 3, 4, 5]}),
        )


def example_of(tmp_path: Path, named: dict[str, Any]) -> Path:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"inputs": named}))
    return path


class Two(torch.nn.Module):
    """Of ids and of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 4)

    def forward(self, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.embed(ids).mean(1) + numbers
        return answer


@pytest.mark.parametrize("by_name", [False, True], ids=["by position", "by name"])
def test_a_program_tells_its_inputs(tmp_path: Path, by_name: bool) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    tensors = {"ids": torch.ones(2, 7, dtype=torch.int64), "numbers": torch.ones(2, 4)}
    sizes = {"ids": {0: batch, 1: length}, "numbers": {0: batch}}
    program = torch.export.export(
        Two().eval(),
        () if by_name else tuple(tensors.values()),
        tensors if by_name else None,
        dynamic_shapes=sizes if by_name else tuple(sizes.values()),
    )
    torch.export.save(program, tmp_path / "net.pt2")
    (tmp_path / "staged").mkdir()
    example = example_of(tmp_path, {"ids": [1, 2, 3], "numbers": [1, 2, 3, 4]})
    settings = ArchiveSettings(model_path=tmp_path / "net.pt2", example=example)
    answer = probe(job_of(stage(settings, tmp_path / "staged", lambda _: None)))
    assert answer["found"] == {
        "inputs": {"ids": {"dtype": "int64", "shape": ["L"]}, "numbers": {"dtype": "float32", "shape": [4]}}
    }
    assert [tensor["name"] for tensor in answer["tensors"]["inputs"]] == ["ids", "numbers"]


@pytest.mark.parametrize(
    "keys", [{"inputs": ("ids",)}, {"inputs": ("ids:int64:L:0:left:x",)}, {"lengths": ("L",)}, {"inputs": ("i:int:L",)}]
)
def test_flags_that_cannot_be_read_are_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        checked(tmp_path, MASKED, **keys)
