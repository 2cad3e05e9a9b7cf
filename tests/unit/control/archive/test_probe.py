"""What the archive check finds wrong with a model or a handler; here without the child process it runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from smartbatch.archive.check import job_of
from smartbatch.archive.handler import check_entry_point
from smartbatch.archive.probe import probe
from smartbatch.archive.settings import ArchiveSettings, CheckError
from smartbatch.archive.stage import stage
from smartbatch_worker.models.load import ModelLoadError
from smartbatch_worker.models.torchvision import build_torchvision

from tests.conftest import AFFINE_MODEL


def run(tmp_path: Path, **keys: Any) -> dict[str, Any]:
    folder = tmp_path / "staged"
    folder.mkdir()
    return probe(job_of(stage(ArchiveSettings(**keys), folder, lambda _: None)))


def run_affine(tmp_path: Path, source: Path, **keys: Any) -> dict[str, Any]:
    defaults = {"model_file": source / "model.py", "model_path": source / "w.pth", "input_shape": "4"}
    return run(tmp_path, **{**defaults, **keys})


def refusal(tmp_path: Path, **keys: Any) -> str:
    with pytest.raises((CheckError, ModelLoadError)) as caught:
        run(tmp_path, **keys)
    return str(caught.value)


def refusal_of_affine(tmp_path: Path, source: Path, **keys: Any) -> str:
    with pytest.raises((CheckError, ModelLoadError)) as caught:
        run_affine(tmp_path, source, **keys)
    return str(caught.value)


def test_a_good_model_finds_nothing(tmp_path: Path, source: Path) -> None:
    tensors = {
        "inputs": [{"name": "data", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "result", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert run_affine(tmp_path, source) == {"found": {}, "notes": [], "tensors": tensors}


def test_open_sizes_are_not_guessed(tmp_path: Path, source: Path) -> None:
    answer = run_affine(tmp_path, source, input_shape="*")
    (note,) = answer["notes"]
    assert answer["tensors"]["inputs"][0]["shape"] == [-1, -1]
    assert answer["tensors"]["outputs"] == []
    assert note == "not run: input_shape [None] leaves sizes open; give --example FILE"


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(build_torchvision("squeezenet1_0", None, random_seed=0).state_dict(), path)
    message = refusal(tmp_path, model="squeezenet1_1", model_path=path)
    assert message == (
        f"{path}: does not fit squeezenet1_1: key 'features.0.weight' has shape [96, 3, 7, 7] in the file "
        "and [64, 3, 3, 3] in the model"
    )


def test_weights_of_another_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(build_torchvision("squeezenet1_1", 7, random_seed=0).state_dict(), path)
    message = refusal(tmp_path, model="squeezenet1_1", model_path=path)
    assert "[7, 512, 1, 1] in the file and [1000, 512, 1, 1] in the model" in message
    assert message.endswith("try --num-classes 7)")


def test_a_model_that_does_not_take_the_shape(tmp_path: Path, source: Path) -> None:
    message = refusal_of_affine(tmp_path, source, input_shape="5")
    assert "shape [5]" in message
    assert "--input-shape" in message


def test_a_model_that_forgets_the_batch(tmp_path: Path, source: Path) -> None:
    (source / "model.py").write_text(AFFINE_MODEL.replace("self.linear(x)", "self.linear(x).sum(0)"))
    assert "first dimension must be the batch" in refusal_of_affine(tmp_path, source)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"logits": y, "past": object()}', "it gave a object as 'past'; leave out what is no answer (None does)"),
        ('{"logits": y, "loss": y.mean()}', "shape [] as 'loss'; the answer's first dimension must be the batch"),
        ("(y, y.to_sparse())", "it gave a sparse one as '1'"),
        ("[{'a': y}, {'a': y}]", "the model took 1 items and gave 2 answers"),
        ("[row[: len(y)] for row in y]", "in shape [2] instead of [1] alone"),
    ],
)
def test_answers_that_cannot_be_cut_are_refused_and_named(tmp_path: Path, source: Path, answer: str, said: str) -> None:
    text = AFFINE_MODEL.replace("return self.linear(x)", f"y = self.linear(x)\n        return {answer}")
    (source / "model.py").write_text(text)
    assert said in refusal_of_affine(tmp_path, source)


def test_answers_of_any_structure_are_taken(tmp_path: Path, source: Path) -> None:
    answer = '[{"boxes": row[row > 99].view(-1, 1), "masks": None, "spectrum": row * 1j} for row in self.linear(x)]'
    (source / "model.py").write_text(AFFINE_MODEL.replace("self.linear(x)", answer))
    assert run_affine(tmp_path, source)["notes"] == []


@pytest.mark.parametrize("answer", ["self.linear(x)", '{"logits": self.linear(x), "hidden": x}'])
def test_labels_that_do_not_match_the_output(tmp_path: Path, source: Path, answer: str) -> None:
    (source / "model.py").write_text(AFFINE_MODEL.replace("self.linear(x)", answer))
    (source / "labels.txt").write_text("one\n")
    message = refusal_of_affine(tmp_path, source, labels=source / "labels.txt")
    assert message == "the model answers 2 classes, and there are 1 labels"


def test_a_model_of_one_image_size_says_so(tmp_path: Path, source: Path) -> None:
    (source / "model.py").write_text(
        AFFINE_MODEL.replace("Linear(4, 2)", "Linear(3 * 8 * 8, 2)").replace("linear(x)", "linear(x.flatten(1))")
    )
    keys: dict[str, Any] = {"model_path": None, "input_shape": None}
    answer = run_affine(tmp_path, source, overrides={"image_crop": "8", "image_resize": "8"}, **keys)
    assert answer["found"] == {"input_shape": [3, 8, 8]}
    assert "takes [3, 8, 8] only" in answer["notes"][0]
    assert answer["tensors"]["inputs"][0]["shape"] == [-1, 3, 8, 8]
    assert answer["tensors"]["outputs"][0]["shape"] == [-1, 2]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("two", "from smartbatch_handler import SmartBatchHandler as S\nclass A(S): pass\nclass B: pass\n", "A, B"),
        ("gone", "import no_such_package_x\n", "no_such_package_x"),
        ("bare", "class A: pass\n", "no initialize()"),
    ],
)
def test_handlers_torchserve_would_stumble_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str
) -> None:
    file = f"smartbatch_test_handler_{name}.py"
    (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckError) as caught:
        check_entry_point(file, tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / file) in str(caught.value)
