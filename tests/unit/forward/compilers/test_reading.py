"""What libraries read by running it, OpenVINO and ONNX Runtime: what they run, what is PyTorch's, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import Samples
from smartbatch_worker.flow import examples
from smartbatch_worker.forward import measure
from smartbatch_worker.forward.batches import ByName
from smartbatch_worker.forward.choose import Compiled, compile_forward
from smartbatch_worker.forward.compilers import openvino
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.models.load import build_model

from tests import small_transformers
from tests.unit.networks import installed

CPU = torch.device("cpu")

both = pytest.mark.parametrize("compiler", ["openvino", "onnxruntime"])


class OfItsSize(torch.nn.Module):
    """What its Python works out from a size is not among its tensor operations, as with Swin's windows."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * (int(x.shape[self.dimension]) % 7)


@both
def test_the_shape_that_was_read_runs_and_others_are_pytorchs(compiler: str, tmp_path: Path) -> None:
    config = WorkerConfig(model="model.py", compile=compiler, input_shape=(3, None, None))
    with torch.inference_mode():
        made = compile_forward(OfItsSize(2), config, CPU, (3, 32, 32), Measurements(tmp_path))
        for side in (32, 33, 37):
            batch = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(2))
            torch.testing.assert_close(made.forward(batch), OfItsSize(2)(batch))


@both
def test_a_number_of_items_that_changes_what_a_module_does_is_refused(compiler: str, tmp_path: Path) -> None:
    config = WorkerConfig(model="model.py", compile=compiler, input_shape=(3, 32, 32))
    with torch.inference_mode(), pytest.raises(ValueError, match=r"for 3 items|Constraints violated"):
        compile_forward(OfItsSize(0), config, CPU, (3, 32, 32), Measurements(tmp_path))


class MeanOfTokens(torch.nn.Module):
    """Of those that the mask leaves; more than `long` of them are counted double, which is Python's doing."""

    def __init__(self, long: int) -> None:
        super().__init__()
        self.long = long
        self.vectors = torch.nn.Embedding(50, 8)
        self.last = torch.nn.Linear(9, 3)

    def check_inputs(self, ids: torch.Tensor, **others: torch.Tensor) -> None:
        if int(ids.max()) >= 50:
            raise ValueError("there are 50 tokens")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        self.check_inputs(ids)
        kept = mask.unsqueeze(-1).float()
        mean = (self.vectors(ids) * kept).sum(1) / kept.sum(1)
        scores: torch.Tensor = self.last(torch.cat([mean, weight], 1))
        return 2 * scores if ids.shape[1] > self.long else scores


NAMED = {
    "ids": {"dtype": "int64", "shape": ["L"], "pad": 0},
    "mask": {"dtype": "bool", "shape": ["L"], "pad": False},
    "weight": {"dtype": "float32", "shape": [1]},
}


def named_batch(*lengths: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return {"ids": ids * mask, "mask": mask, "weight": torch.rand((len(lengths), 1), generator=generator)}


def of_named(module: torch.nn.Module, compiler: str, cache: Path) -> Compiled:
    config = WorkerConfig.resolve({"model": "model.py", "compile": compiler, "inputs": NAMED}, {})
    samples = examples.samples(config, [])
    return compile_forward(ByName(module), config, CPU, None, Measurements(cache), samples=samples)


@both
def test_named_inputs_of_any_length_run_and_pytorch_has_what_is_longer_than_was_compared(
    compiler: str, tmp_path: Path
) -> None:
    module = MeanOfTokens(long=max(examples.MEASURED_LENGTHS)).eval()
    with torch.inference_mode():
        made = of_named(module, compiler, tmp_path)
        for batch in (named_batch(7), named_batch(5, 60, 33), named_batch(128, 1), named_batch(129, 200)):
            torch.testing.assert_close(made.forward(batch), module(**batch))
        with pytest.raises(ValueError, match="50 tokens"):
            made.forward({**named_batch(7), "ids": torch.full((1, 7), 50)})


@both
def test_a_length_that_changes_what_a_module_does_is_refused(compiler: str, tmp_path: Path) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"4 items of ids \[128\]"):
        of_named(MeanOfTokens(long=60).eval(), compiler, tmp_path)


@both
def test_what_named_inputs_look_like_must_be_known(compiler: str, tmp_path: Path) -> None:
    config = WorkerConfig.resolve({"model": "model.py", "compile": compiler, "inputs": NAMED}, {})
    with pytest.raises(ValueError, match="an input_shape or an example"):
        compile_forward(ByName(MeanOfTokens(60)), config, CPU, None, Measurements(tmp_path), samples=Samples())


class Parts(torch.nn.Module):
    """Of a tensor and a picture of its own size, what `kind` makes of two parts."""

    def __init__(self, kind: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> Any:
        return self.kind(x.sum(1), image.mean((2, 3)) * (image.shape[2] % 7))


def of_parts(kind: Callable[[torch.Tensor, torch.Tensor], Any], compiler: str, cache: Path) -> Compiled:
    inputs = {"x": {"shape": ["L"], "pad": 0}, "image": {"shape": [3, None, None]}}
    config = WorkerConfig.resolve({"model": "model.py", "compile": compiler, "inputs": inputs}, {})
    samples = examples.samples(config, [{"x": torch.ones(4), "image": torch.ones(3, 9, 9)}])
    return compile_forward(ByName(Parts(kind)), config, CPU, None, Measurements(cache), samples=samples)


@both
def test_sizes_that_are_not_padded_run_only_where_they_are_the_examples(compiler: str, tmp_path: Path) -> None:
    pair = lambda x, y: (x, y)  # noqa: E731
    with torch.inference_mode():
        made = of_parts(pair, compiler, tmp_path)
        for side in (9, 8, 12):
            batch = {"x": torch.rand(2, 5), "image": torch.rand(2, 3, side, side)}
            torch.testing.assert_close(made.forward(batch), Parts(pair)(**batch))


class Named(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@pytest.mark.parametrize("kind", [lambda x, y: {"first": x, "second": y}, Named, lambda x, y: [x, y]])
@both
def test_what_would_lose_the_parts_names_is_refused(
    compiler: str, kind: Callable[[torch.Tensor, torch.Tensor], Any], tmp_path: Path
) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"cannot read this model|gives a tuple, the model a"):
        of_parts(kind, compiler, tmp_path)


@both
def test_a_model_that_writes_texts_cannot_be_read(compiler: str, tmp_path: Path) -> None:
    small_transformers.gpt2(tmp_path)
    ids = {"dtype": "int64", "shape": ["L"], "pad": 0, "pad_side": "left"}
    inputs = {"input_ids": ids, "attention_mask": ids}
    section = {"model": "config.json", "task": "text-generation", "inputs": inputs, "max_length": 40}
    config = WorkerConfig.resolve({**section, "compile": compiler, "max_new_tokens": 2}, {})
    module = ByName(build_model(config, tmp_path))
    samples = examples.samples(config, [])
    with torch.inference_mode(), pytest.raises(ValueError, match=f"compile: {compiler} cannot read this model"):
        compile_forward(module, config, CPU, None, Measurements(tmp_path), samples=samples)


@pytest.fixture
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that alone is installed, and the fastest."""
    seconds = {"with_pytorch": 1.0, "_of_one": 1.0}

    def time_forward(forward: object, *_: object) -> float:
        return seconds.get(getattr(forward, "__qualname__", "").split(".")[0], 2.0)

    monkeypatch.setattr(measure, "time_forward", time_forward)
    installed(monkeypatch, request.param)
    return str(request.param)


fastest = pytest.mark.parametrize("compiler", ["openvino", "onnxruntime"], indirect=True)


@pytest.mark.parametrize(
    ("compiler", "task"),
    [
        ("openvino", "text-classification"),
        ("openvino", "feature-extraction"),
        ("onnxruntime", "token-classification"),
    ],
    indirect=["compiler"],
)
def test_auto_takes_what_is_the_fastest_for_a_librarys_texts(task: str, compiler: str, tmp_path: Path) -> None:
    head = {"text-classification": "ForSequenceClassification", "token-classification": "ForTokenClassification"}
    small_transformers.bert(tmp_path, head.get(task, "Model"))
    ids = {"dtype": "int64", "shape": ["L"], "pad": 0}
    inputs = {"input_ids": ids, "attention_mask": ids}
    config = WorkerConfig.resolve({"model": "config.json", "task": task, "inputs": inputs}, {})
    module = build_model(config, tmp_path)
    (cache := tmp_path / "cache").mkdir()
    with torch.inference_mode():
        samples = examples.samples(config, [])
        made = compile_forward(ByName(module), config, CPU, None, Measurements(cache), samples=samples)
        assert made.way == f"{compiler} fp32"
        for lengths in ((3,), (12, 40, 7), (200, 512)):
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
            tokens = torch.randint(5, 300, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
            batch = {"input_ids": tokens, "attention_mask": mask}
            torch.testing.assert_close(made.forward(batch), module(**batch), rtol=0, atol=1e-4)
        too_long = {name: torch.ones((1, 513), dtype=torch.int64) for name in inputs}
        no_token = {name: torch.full((1, 4), 400) for name in inputs}
        for wrong, words in ((too_long, "at most 512"), (no_token, "out of range")):
            with pytest.raises(ValueError, match=words):
                made.forward(wrong)


@fastest
def test_auto_takes_what_is_the_fastest_for_a_librarys_pictures(compiler: str, tmp_path: Path) -> None:
    small_transformers.vit(tmp_path)
    config = WorkerConfig.resolve(
        {"model": "config.json", "task": "image-classification", "input_shape": [3, 32, 32]}, {}
    )
    module = build_model(config, tmp_path)
    (cache := tmp_path / "cache").mkdir()
    with torch.inference_mode():
        made = compile_forward(module, config, CPU, (3, 32, 32), Measurements(cache))
        assert made.way == f"{compiler} fp32"
        images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(made.forward(images), module(images), rtol=0, atol=1e-4)


def test_of_a_librarys_model_nothing_is_timed_where_nothing_else_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)
    config = WorkerConfig.resolve({"model": "timm/vit_tiny_patch16_224"}, {})
    module = torch.nn.Conv2d(3, 8, 3)
    made = compile_forward(module, config, CPU, (3, 32, 32), Measurements(tmp_path), at_once=True)
    assert (made.way, made.choice, list(tmp_path.iterdir())) == ("off fp32", None, [])


def test_a_model_that_takes_no_made_up_numbers_is_pytorchs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = WorkerConfig.resolve({"model": "timm/vit_tiny_patch16_224"}, {})
    with torch.inference_mode():
        made = compile_forward(torch.nn.Conv2d(1, 8, 3), config, CPU, (3, 32, 32), Measurements(tmp_path))
    assert made.way == "off fp32"
    assert "ways of computing are not compared" in caplog.text


@pytest.mark.parametrize("compiler", ["openvino"], indirect=True)
@pytest.mark.parametrize("named", [True, False])
def test_batches_wait_while_a_model_is_read_and_no_longer(
    named: bool, compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = examples.samples(WorkerConfig.resolve({"model": "model.py", "inputs": NAMED}, {}), [])
    module = ByName(MeanOfTokens(1000).eval()) if named else torch.nn.Conv2d(3, 8, 3)
    # Of a library's models, whichever.
    config = WorkerConfig.resolve({"model": "timm/x", **({"inputs": NAMED} if named else {})}, {})
    shape = None if named else (3, 32, 32)
    seen: list[str] = []

    @contextmanager
    def undisturbed() -> Iterator[None]:
        seen.append("begin")
        yield
        seen.append("end")

    def compiled(*args: Any) -> Any:
        seen.append("compiled")
        return really(*args)

    really = openvino._compiled
    monkeypatch.setattr(openvino, "_compiled", compiled)
    measurements = Measurements(tmp_path)
    with torch.inference_mode():
        compile_forward(module, config, CPU, shape, measurements, samples=samples)
        first = compile_forward(module, config, CPU, shape, measurements, samples=samples, at_once=True)
        assert first.choice is not None
        seen.clear()
        made = first.choice.known(undisturbed)
    assert made is not None
    assert (made.way, seen) == (f"{compiler} fp32", ["begin", "end", "compiled"])
