"""The table of compilers: it is the configuration's, and what a new row lacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from smartbatch_worker.contract import config
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward.choose import Compiled, compile_forward
from smartbatch_worker.forward.compilers import COMPILERS, cuda_graphs
from smartbatch_worker.forward.compilers.compiler import Compiler, Task
from smartbatch_worker.forward.compilers.cuda_graphs import GraphedForward
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.forward.precision import Forward

ROOT = Path(__file__).parents[3]


def task(tmp_path: Path, precision: str = "fp32", *, is_ours: bool = True, device: str = "cpu") -> Task:
    module = torch.nn.Conv2d(3, 8, 3).eval().requires_grad_(False)
    return Task(
        module,
        precision,
        is_ours=is_ours,
        shape=(3, 8, 8),
        device=torch.device(device),
        cache_dir=tmp_path,
        name_of=lambda key: key,
        largest=4,
    )


def test_the_configuration_accepts_what_is_there() -> None:
    assert set(config._COMPILERS) == {"auto", *COMPILERS}


@pytest.mark.parametrize("compiler", COMPILERS.values(), ids=COMPILERS)
def test_every_compiler_is_described_and_tested(compiler: Compiler) -> None:
    lines = (ROOT / "docs/configuration.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith("| `compile` |")]
    assert compiler.name in row
    assert Path(inspect.getfile(compiler.build)).parent.name == "compilers"
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    assert f'"{compiler.name}"' in tests


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("winograd", {"precision": "fp16"}, "winograd needs a torchvision classifier in fp32 or bf16 on the CPU"),
        ("winograd", {"is_ours": False}, "winograd needs a torchvision classifier"),
        ("winograd", {"device": "cuda"}, "winograd needs a torchvision classifier"),
        ("cuda_graphs", {}, "cuda_graphs needs a GPU and a known input_shape; this is cpu"),
        ("openvino", {"device": "cuda"}, "openvino needs"),
        ("onnxruntime", {"device": "cuda"}, "onnxruntime needs"),
        ("onnxruntime", {"precision": "bf16"}, "onnxruntime computes in fp32"),
    ],
)
def test_a_compiler_says_why_it_does_not_take_a_task(
    name: str, change: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"compile: {said}"):
        COMPILERS[name].take(task(tmp_path, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["off", "inductor"])
def test_what_takes_everything_says_so(name: str, tmp_path: Path) -> None:
    assert COMPILERS[name].why_not(task(tmp_path, "fp16", is_ours=False, device="cuda")) is None


def test_plain_pytorch_pads_nothing(tmp_path: Path) -> None:
    built = COMPILERS["off"].take(task(tmp_path))
    assert built.padding((3, 3, 8, 8)) is None
    assert built.forward(torch.ones(3, 3, 8, 8)).shape == (3, 8, 6, 6)


def test_cuda_graphs_tell_what_they_pad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = task(tmp_path)

    class Recorded(cuda_graphs.GraphedForward):
        def __init__(self, forward: object, *rest: object) -> None:
            self.given = (forward, *rest)

        def padding(self, shape: tuple[int, ...]) -> int | None:
            return 5

    monkeypatch.setattr(cuda_graphs, "GraphedForward", Recorded)
    built = cuda_graphs.build(given)
    assert built.padding((3, 3, 8, 8)) == 5
    assert isinstance(built.forward, Recorded)
    assert built.forward.given == (given.folded, (3, 8, 8), 4, given.device)


def test_on_a_gpu_a_known_model_is_recorded_and_not_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors are on the CPU, the task says otherwise: what is chosen depends on no more than that."""

    def rerun(forward: Forward, batch: torch.Tensor, pool: object) -> tuple[Callable[[], object], torch.Tensor]:
        output = forward(batch)
        return lambda: output.copy_(forward(batch)), output

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(cuda_graphs, "record_cuda_graph", rerun)
    monkeypatch.setattr(cuda_graphs, "GraphedForward", on_cpu)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).eval().requires_grad_(False)
    given, measurements = WorkerConfig(), Measurements(tmp_path)

    def compiled(shape: tuple[int, ...] | None) -> Compiled:
        return compile_forward(network, given, torch.device("cuda"), shape, measurements, 4)

    made = compiled((3, 8, 8))
    assert (made.name, made.padding((3, 3, 8, 8))) == ("cuda_graphs", 0)
    batch = torch.rand(3, 3, 8, 8)
    assert torch.allclose(made.forward(batch), network(batch), atol=1e-6)
    assert isinstance(network[1], torch.nn.BatchNorm2d)
    assert compiled(None).name == "off"  # nothing to record

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "record_cuda_graph", fail)
    assert compiled((3, 8, 8)).name == "off"


def on_cpu(forward: Forward, shape: tuple[int, ...], largest: int, device: torch.device) -> GraphedForward:
    return GraphedForward(forward, shape, largest, torch.device("cpu"))
