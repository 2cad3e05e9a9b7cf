"""OpenVINO: what it runs, what it is refused, and what it must leave alone in the process."""

from __future__ import annotations

import os
import subprocess
import sys
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
from tests.unit.networks import torch_threads

CPU = torch.device("cpu")


class OfItsSize(torch.nn.Module):
    """What its Python works out from a size is not among its tensor operations, as with Swin's windows."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * (int(x.shape[self.dimension]) % 7)


def test_openvino_runs_the_shape_it_was_read_for_and_pytorch_the_others(tmp_path: Path) -> None:
    config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, None, None))
    with torch.inference_mode():
        made = compile_forward(OfItsSize(2), config, CPU, (3, 32, 32), Measurements(tmp_path))
        for side in (32, 33, 37):
            batch = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(2))
            torch.testing.assert_close(made.forward(batch), OfItsSize(2)(batch))


def test_openvino_is_refused_where_the_number_of_items_changes_what_a_module_does(tmp_path: Path) -> None:
    config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
    with torch.inference_mode(), pytest.raises(ValueError, match="for 3 items"):
        compile_forward(OfItsSize(0), config, CPU, (3, 32, 32), Measurements(tmp_path))


def test_a_signal_is_survived_after_another_thread_freed_what_openvino_made(tmp_path: Path) -> None:
    """As after an idle unload; in a process of its own, which it might end."""
    program = """if True:
        import os, signal, sys, threading, torch
        from pathlib import Path
        from smartbatch_worker.forward.choose import compile_forward
        from smartbatch_worker.forward.measurements import Measurements
        from smartbatch_worker.contract.config import WorkerConfig
        signal.signal(signal.SIGTERM, lambda *_: print("handled"))
        config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
        conv, cpu = torch.nn.Conv2d(3, 8, 3), torch.device("cpu")
        with torch.inference_mode():
            made = [compile_forward(conv, config, cpu, (3, 32, 32), Measurements(Path(sys.argv[1])))]
            made[0].forward(torch.ones(2, 3, 32, 32))
        freeing = threading.Thread(target=made.clear)
        freeing.start()
        freeing.join()
        os.kill(os.getpid(), signal.SIGTERM)
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    handler = Path(openvino.__file__).parents[3]
    done = subprocess.run(command, timeout=120, check=False, cwd=handler, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system tells no affinity")
def test_openvino_leaves_the_choice_of_cores_to_the_system(tmp_path: Path) -> None:
    """Pinned, all workers' threads would share the first cores."""
    config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
    with torch.inference_mode(), torch_threads(1):
        made = compile_forward(torch.nn.Conv2d(3, 8, 3), config, CPU, (3, 32, 32), Measurements(tmp_path))
        made.forward(torch.ones(2, 3, 32, 32))
    masks = {frozenset(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()}
    assert masks == {frozenset(os.sched_getaffinity(0))}


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


def of_named(module: torch.nn.Module, cache: Path) -> Compiled:
    config = WorkerConfig.resolve({"model": "model.py", "compile": "openvino", "inputs": NAMED}, {})
    samples = examples.samples(config, [])
    return compile_forward(ByName(module), config, CPU, None, Measurements(cache), samples=samples)


def test_openvino_runs_named_inputs_of_any_length_and_pytorch_what_is_longer_than_was_compared(tmp_path: Path) -> None:
    module = MeanOfTokens(long=max(examples.MEASURED_LENGTHS)).eval()
    with torch.inference_mode():
        made = of_named(module, tmp_path)
        for batch in (named_batch(7), named_batch(5, 60, 33), named_batch(128, 1), named_batch(129, 200)):
            torch.testing.assert_close(made.forward(batch), module(**batch))
        with pytest.raises(ValueError, match="50 tokens"):
            made.forward({**named_batch(7), "ids": torch.full((1, 7), 50)})


def test_openvino_is_refused_where_a_length_changes_what_a_module_does(tmp_path: Path) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"4 items of ids \[128\]"):
        of_named(MeanOfTokens(long=60).eval(), tmp_path)


def test_openvino_needs_to_know_what_named_inputs_look_like(tmp_path: Path) -> None:
    config = WorkerConfig.resolve({"model": "model.py", "compile": "openvino", "inputs": NAMED}, {})
    with pytest.raises(ValueError, match="an input_shape or an example"):
        compile_forward(ByName(MeanOfTokens(60)), config, CPU, None, Measurements(tmp_path), samples=Samples())


class Parts(torch.nn.Module):
    """Of a tensor and a picture of its own size, what `kind` makes of two parts."""

    def __init__(self, kind: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> Any:
        return self.kind(x.sum(1), image.mean((2, 3)) * (image.shape[2] % 7))


def of_parts(kind: Callable[[torch.Tensor, torch.Tensor], Any], cache: Path) -> Compiled:
    inputs = {"x": {"shape": ["L"], "pad": 0}, "image": {"shape": [3, None, None]}}
    config = WorkerConfig.resolve({"model": "model.py", "compile": "openvino", "inputs": inputs}, {})
    samples = examples.samples(config, [{"x": torch.ones(4), "image": torch.ones(3, 9, 9)}])
    return compile_forward(ByName(Parts(kind)), config, CPU, None, Measurements(cache), samples=samples)


def test_openvino_runs_sizes_that_are_not_padded_only_where_they_are_the_examples(tmp_path: Path) -> None:
    pair = lambda x, y: (x, y)  # noqa: E731
    with torch.inference_mode():
        made = of_parts(pair, tmp_path)
        for side in (9, 8, 12):
            batch = {"x": torch.rand(2, 5), "image": torch.rand(2, 3, side, side)}
            torch.testing.assert_close(made.forward(batch), Parts(pair)(**batch))


class Named(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@pytest.mark.parametrize("kind", [lambda x, y: {"first": x, "second": y}, Named, lambda x, y: [x, y]])
def test_openvino_is_refused_where_it_would_lose_the_parts_names(
    kind: Callable[[torch.Tensor, torch.Tensor], Any], tmp_path: Path
) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"cannot read this model|gives a tuple, the model a"):
        of_parts(kind, tmp_path)


def test_openvino_says_of_a_model_that_writes_texts_that_it_cannot_read_it(tmp_path: Path) -> None:
    small_transformers.gpt2(tmp_path)
    ids = {"dtype": "int64", "shape": ["L"], "pad": 0, "pad_side": "left"}
    inputs = {"input_ids": ids, "attention_mask": ids}
    section = {"model": "config.json", "task": "text-generation", "inputs": inputs, "max_length": 40}
    config = WorkerConfig.resolve({**section, "compile": "openvino", "max_new_tokens": 2}, {})
    module = ByName(build_model(config, tmp_path))
    samples = examples.samples(config, [])
    with torch.inference_mode(), pytest.raises(ValueError, match="compile: openvino cannot read this model"):
        compile_forward(module, config, CPU, None, Measurements(tmp_path), samples=samples)


@pytest.fixture
def openvino_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that are timed, by name."""
    seconds = {"_build_named": 1.0, "build": 1.0}

    def time_forward(forward: object, *_: object) -> float:
        return seconds.get(getattr(forward, "__qualname__", "").split(".")[0], 2.0)

    monkeypatch.setattr(measure, "time_forward", time_forward)


@pytest.mark.usefixtures("openvino_is_the_fastest")
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
def test_auto_takes_openvino_for_a_librarys_texts(task: str, tmp_path: Path) -> None:
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
        assert made.way == "openvino fp32"
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


@pytest.mark.usefixtures("openvino_is_the_fastest")
def test_auto_takes_openvino_for_a_librarys_pictures(tmp_path: Path) -> None:
    small_transformers.vit(tmp_path)
    config = WorkerConfig.resolve(
        {"model": "config.json", "task": "image-classification", "input_shape": [3, 32, 32]}, {}
    )
    module = build_model(config, tmp_path)
    (cache := tmp_path / "cache").mkdir()
    with torch.inference_mode():
        made = compile_forward(module, config, CPU, (3, 32, 32), Measurements(cache))
        assert made.way == "openvino fp32"
        images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(made.forward(images), module(images), rtol=0, atol=1e-4)


def test_of_a_librarys_model_nothing_is_timed_where_openvino_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda _: None)
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


@pytest.mark.usefixtures("openvino_is_the_fastest")
@pytest.mark.parametrize("named", [True, False])
def test_batches_wait_while_a_model_is_read_and_no_longer(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert (made.way, seen) == ("openvino fp32", ["begin", "end", "compiled"])
