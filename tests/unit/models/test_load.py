"""Every kind of model file loads; every broken one is refused with its name and what is wrong with it."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import ModelLoadError, build_model, describe_weights, max_batch_size
from smartbatch_worker.models.torchvision import build_torchvision, torchvision_classifiers, torchvision_keys

SOURCE = """
import torch

class Affine(torch.nn.Module):
    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.linear = torch.nn.Linear(4, num_classes)

    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model directory with model.py and two good weights files."""
    (tmp_path / "model.py").write_text(SOURCE)
    torch.save(weights(), tmp_path / "w.pth")
    save_file(weights(), tmp_path / "w.safetensors")
    return tmp_path


def weights() -> OrderedDict[str, torch.Tensor]:
    """y = 2x summed over the four inputs, plus 1, three times."""
    return OrderedDict({"linear.weight": torch.full((3, 4), 2.0), "linear.bias": torch.ones(3)})


def build(folder: Path, model: str = "model.py", **keys: object) -> torch.nn.Module:
    return build_model(WorkerConfig.resolve({"model": model, **keys}, {}), folder)


def refusal(folder: Path, model: str = "model.py", **keys: object) -> str:
    with pytest.raises(ModelLoadError) as caught:
        build(folder, model, **keys)
    return str(caught.value)


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_model_py_with_a_state_dict(folder: Path, file: str) -> None:
    module = build(folder, weights=file)
    assert module(torch.ones(2, 4)).tolist() == [[9.0, 9.0, 9.0]] * 2
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_wrapped_and_prefixed_checkpoints(folder: Path) -> None:
    prefixed = OrderedDict((f"module.{key}", value) for key, value in weights().items())
    for name, checkpoint in {
        "a.pth": {"state_dict": prefixed, "epoch": 3},
        "b.pth": {"model": weights()},
        "c.pth": OrderedDict((f"_orig_mod.{key}", value) for key, value in weights().items()),
    }.items():
        torch.save(checkpoint, folder / name)
        assert build(folder, weights=name)(torch.ones(1, 4)).tolist() == [[9.0, 9.0, 9.0]]


def test_half_precision_and_legacy_checkpoints_become_fp32(folder: Path) -> None:
    halves = {key: value.half() for key, value in weights().items()}
    torch.save(halves, folder / "old.pth", _use_new_zipfile_serialization=False)
    assert build(folder, weights="old.pth")(torch.ones(1, 4)).dtype == torch.float32


def test_num_classes_reaches_the_constructor(folder: Path) -> None:
    assert build(folder, num_classes=7)(torch.ones(1, 4)).shape == (1, 7)


def test_class_of_several_must_be_named(folder: Path) -> None:
    (folder / "model.py").write_text(SOURCE + "\nclass Other(torch.nn.Module):\n    pass\n")
    assert "found Affine, Other" in refusal(folder)
    assert type(build(folder, model_class="Affine")).__name__ == "Affine"
    assert "Nope" in refusal(folder, model_class="Nope")


def test_model_py_imports_the_file_beside_it(folder: Path) -> None:
    (folder / "smartbatch_test_layers.py").write_text("WIDTH = 5\n")
    (folder / "model.py").write_text(
        SOURCE.replace("import torch", "import torch\nfrom smartbatch_test_layers import WIDTH", 1).replace(
            "num_classes: int = 3", "num_classes: int = WIDTH"
        )
    )
    assert build(folder)(torch.ones(1, 4)).shape == (1, 5)


@pytest.mark.parametrize(
    ("source", "said"),
    [("import nonexistent_package_x", "nonexistent_package_x"), ("x = 1", "found none"), ("def f(:", "SyntaxError")],
)
def test_bad_model_py(folder: Path, source: str, said: str) -> None:
    (folder / "model.py").write_text(source)
    message = refusal(folder)
    assert said in message
    assert str(folder / "model.py") in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"linear.bias": None}, "key 'linear.bias' is missing (the model wants shape [3])"),
        (
            {"linear.weight": torch.zeros(5, 4)},
            "key 'linear.weight' has shape [5, 4] in the file and [3, 4] in the model",
        ),
        ({"extra.weight": torch.zeros(2)}, "key 'extra.weight' of shape [2] is unknown to the model"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_architecture_names_file_and_first_key(
    folder: Path, change: dict[str, torch.Tensor | None], said: str, suffix: str
) -> None:
    changed = {key: value for key, value in {**weights(), **change}.items() if value is not None}
    path = folder / f"other{suffix}"
    if suffix == ".pth":
        torch.save(changed, path)
    else:
        save_file(changed, path)
    message = refusal(folder, weights=path.name)
    assert message == f"{path}: does not fit Affine: {said}"


class Danger:
    """A pickle that would run code when read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("print('code ran')",))


@pytest.mark.parametrize("content", [Danger(), torch.nn.Linear(4, 3), {"state_dict": weights(), "acc": np.float64(1)}])
def test_code_in_a_checkpoint_never_runs(folder: Path, content: object, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(content, folder / "code.pth")
    message = refusal(folder, weights="code.pth")
    assert "could run code" in message
    assert str(folder / "code.pth") in message
    assert "code ran" not in capsys.readouterr().out


def test_missing_corrupt_and_foreign_weights_files(folder: Path) -> None:
    good = (folder / "w.pth").read_bytes()
    (folder / "truncated.pth").write_bytes(good[: len(good) // 2])
    (folder / "empty.pth").write_bytes(b"")
    (folder / "junk.pth").write_bytes(b"hello world" * 50)
    (folder / "junk.safetensors").write_bytes(b"hello world" * 50)
    good = (folder / "w.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(good[:-8])
    torch.save([1, 2], folder / "list.pth")
    (folder / "pickle.pth").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    torch.save({"linear.weight": "text"}, folder / "text.pth")
    for name, said in {
        "absent.pth": "no such file",
        "truncated.pth": "corrupt",
        "empty.pth": "corrupt",
        "junk.pth": "corrupt",
        "pickle.pth": "torch.save(model.state_dict(), path) writes one",
        "junk.safetensors": "corrupt",
        "truncated.safetensors": "corrupt",
        "list.pth": "holds a list, not a state dict",
        "text.pth": "entry 'linear.weight' is a str",
    }.items():
        message = refusal(folder, weights=name)
        assert message.startswith(f"{folder / name}: "), message
        assert said in message
        assert "weights_only" not in message, "PyTorch's advice is to run what is in the file"


def save_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(4, 3)).save(str(path))  # type: ignore[no-untyped-call]


def save_exported(path: Path, num_items: int = 2, **dim: int) -> None:
    shapes = ({0: torch.export.Dim("batch", **dim)},) if num_items > 1 else None
    program = torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(num_items, 4),), dynamic_shapes=shapes)
    torch.export.save(program, path)


def test_torchscript(tmp_path: Path) -> None:
    save_torchscript(tmp_path / "model.pt")
    module = build(tmp_path, "model.pt")
    assert module(torch.ones(5, 4)).shape == (5, 3)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert max_batch_size(module) is None


def test_exported_program(tmp_path: Path) -> None:
    save_exported(tmp_path / "free.pt2")
    save_exported(tmp_path / "bound.pt2", max=16)
    module = build(tmp_path, "free.pt2")
    assert [len(module(torch.ones(count, 4))) for count in (1, 2, 33)] == [1, 2, 33]
    assert max_batch_size(module) is None
    assert module.input_shape == (4,)
    assert max_batch_size(build(tmp_path, "bound.pt2")) == 16


def test_exported_program_with_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    save_exported(tmp_path / "fixed.pt2", num_items=1)
    message = refusal(tmp_path, "fixed.pt2")
    assert "takes batches of exactly 1" in message
    assert "dynamic" in message


def test_programs_with_a_wrong_suffix_or_damage(folder: Path) -> None:
    save_torchscript(folder / "model.pt")
    save_exported(folder / "model.pt2")
    shutil.copy(folder / "model.pt", folder / "swapped.pt2")
    shutil.copy(folder / "model.pt", folder / "script.pth")
    (folder / "truncated.pt2").write_bytes((folder / "model.pt2").read_bytes()[:-300])
    (folder / "truncated.pt").write_bytes((folder / "model.pt").read_bytes()[:-300])
    assert "content says torchscript" in refusal(folder, "swapped.pt2")
    assert "whole torchscript program" in refusal(folder, weights="script.pth")
    for name in ("truncated.pt2", "truncated.pt", "absent.pt", "absent.pt2"):
        assert refusal(folder, name).startswith(str(folder / name))
    assert "carries its own weights" in refusal(folder, "model.pt", weights="w.pth")


def test_torchvision_by_name(tmp_path: Path) -> None:
    source = build_torchvision("squeezenet1_1", 10, random_seed=1)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    module = build(tmp_path, "squeezenet1_1", weights="w.safetensors", num_classes=10)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(module(images), source.eval()(images))
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_torchvision_mistakes(tmp_path: Path) -> None:
    assert "near it are resnet" in refusal(tmp_path, "resnet")
    assert "has no weights" in refusal(tmp_path, "resnet18")
    torch.save(weights(), tmp_path / "w.pth")
    assert "key 'conv1.weight' is missing" in refusal(tmp_path, "resnet18", weights="w.pth")


def test_random_weights_are_the_same_every_time(tmp_path: Path) -> None:
    one, other = (build(tmp_path, "squeezenet1_1", weights_source="random", num_classes=4) for _ in range(2))
    assert torch.equal(one.classifier[1].weight, other.classifier[1].weight)  # type: ignore[index,union-attr]


# One of each family whose construction or loading is special.
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "mnasnet0_5", "regnet_y_400mf", "densenet121"])
def test_special_families(tmp_path: Path, name: str) -> None:
    assert name in torchvision_classifiers()
    from torchvision import models

    # The inceptions take seconds to initialise.
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    source = models.get_model(name, weights=None, num_classes=5, **options)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        assert build(tmp_path, name, weights=file, num_classes=5).state_dict().keys() == source.state_dict().keys()


def test_inception_drops_its_training_heads(tmp_path: Path) -> None:
    from torchvision import models

    with_heads = models.googlenet(weights=None, num_classes=5, aux_logits=True, init_weights=False)
    torch.save(with_heads.state_dict(), tmp_path / "w.pth")
    module = build(tmp_path, "googlenet", weights="w.pth", num_classes=5)
    assert not any(key.startswith("aux") for key in module.state_dict())
    assert module(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert not module.transform_input
    assert build(tmp_path, "googlenet", weights="w.pth", num_classes=5, weights_source="pretrained").transform_input


def test_densenet_weights_with_their_old_names(tmp_path: Path) -> None:
    source = build_torchvision("densenet121", 5, random_seed=0).state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in key else key: value
        for key, value in source.items()
    }
    assert torchvision_keys("densenet121", old).keys() == source.keys()


def test_checkpoints_without_batch_norm_counters(tmp_path: Path) -> None:
    source = build_torchvision("mnasnet0_5", 5, random_seed=0).state_dict()
    torch.save({k: v for k, v in source.items() if "num_batches_tracked" not in k}, tmp_path / "w.pth")
    build(tmp_path, "mnasnet0_5", weights="w.pth", num_classes=5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"weights": "w.pth", "weights_note": "pretrained IMAGENET1K_V1"}, "pretrained IMAGENET1K_V1"),
        ({"weights": "w.pth", "weights_source": "random"}, "random seed 0 (NOT pretrained)"),
        ({"weights": "w.pth"}, "file w.pth"),
        ({"model": "model.pt2"}, "embedded in model.pt2"),
        ({"model": "model.py"}, "as model.py builds them"),
        ({}, "none"),
    ],
)
def test_weights_are_described_in_one_line(keys: dict[str, object], said: str) -> None:
    assert describe_weights(WorkerConfig.resolve(keys, {})) == said
