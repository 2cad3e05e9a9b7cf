"""The table of kinds: which row takes what, and what a new row lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torchvision
from smartbatch_worker.contract.programs import EXPORTED, TORCHSCRIPT
from smartbatch_worker.models import KINDS, Kind, ModelLoadError, kind_of
from smartbatch_worker.models.torchvision import require_classifier

ROOT = Path(__file__).parents[3]
ids = [kind.name for kind in KINDS]

ROWS = {
    "torchvision": ("| a torchvision classifier |", "test_torchvision_by_name"),
    "source": ("| `model.py` and a state dict |", "test_model_py_with_a_state_dict"),
    "torchscript": ("| a TorchScript program |", "test_torchscript"),
    "exported": ("| a `torch.export` program |", "test_exported_program"),
    "huggingface": ("| a Hugging Face model |", "test_huggingface_folder"),
    "detection": ("| a torchvision detector |", "test_detection_by_name"),
    "segmentation": ("| a torchvision segmentation model |", "test_segmentation_by_name"),
    "timm": ("| a timm model |", "test_timm_by_name"),
}
"""How a kind's row in "What can be served" begins, and the test that loads one."""


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("resnet18", "torchvision"),
        ("model.py", "source"),
        ("net.pt", "torchscript"),
        ("net.pt2", "exported"),
        ("hf/config.json", "huggingface"),
        ("net.pth", "torchvision"),
        ("", "torchvision"),
        ("fasterrcnn_resnet50_fpn", "detection"),
        ("fcn_resnet50", "segmentation"),
        ("timm/vit_tiny_patch16_224", "timm"),
        ("timm/some_net.pt", "timm"),
        ("fcn.py", "source"),
        ("fcn_net.py", "source"),
    ],
)
def test_a_model_is_told_by_its_name(model: str, kind: str) -> None:
    assert kind_of(model).name == kind


def test_every_row_can_be_told_from_the_others() -> None:
    assert len(set(ids)) == len(KINDS)
    suffixes = [kind.suffix for kind in KINDS if kind.suffix is not None]
    assert len(set(suffixes)) == len(suffixes)
    assert [kind for kind in KINDS if kind.takes("any name")] == [KINDS[-1]], "what takes any name is asked last"
    assert {kind.name for kind in KINDS if kind.is_program} == {TORCHSCRIPT.name, EXPORTED.name}
    assert TORCHSCRIPT.entries.isdisjoint(EXPORTED.entries)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (torchvision.models, "torchvision"),
        (torchvision.models.detection, "detection"),
        (torchvision.models.segmentation, "segmentation"),
    ],
)
def test_every_name_of_torchvisions_is_of_its_kind(module: Any, kind: str) -> None:
    for name in torchvision.models.list_models(module=module):
        assert kind_of(name).name == kind, name


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_every_kind_is_described_and_tested(kind: Kind) -> None:
    assert kind.name in ROWS, "name its row in docs/models.md and its test above"
    described, tested = ROWS[kind.name]
    assert described in (ROOT / "docs/models.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert f"def {tested}(" in tests
    assert (ROOT / f"handler/smartbatch_worker/models/{kind.name}.py").is_file()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("r3d_18", "torchvision.models.video"),
        ("raft_small", "torchvision.models.optical_flow"),
        ("quantized_resnet18", "torchvision.models.quantization"),
    ],
)
def test_what_torchvision_has_and_is_not_served_is_called_so(name: str, told: str) -> None:
    with pytest.raises(ModelLoadError, match=f"is of {told}, which is not served by name: write a model.py .*--input"):
        require_classifier(name)


def test_a_name_like_none_of_torchvisions_is_sent_elsewhere() -> None:
    with pytest.raises(ModelLoadError, match="--timm NAME, Hugging Face's --hf NAME"):
        require_classifier("yolov8n")


def test_whoever_misspells_a_file_is_told_every_suffix() -> None:
    assert "nosuchnet" not in torchvision.models.list_models()
    with pytest.raises(ModelLoadError, match="is no torchvision classifier and no") as caught:
        require_classifier("nosuchnet")
    for kind in KINDS:
        assert kind.suffix is None or kind.suffix in str(caught.value)
