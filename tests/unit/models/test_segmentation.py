"""segmentation: torchvision's own answers, without the head that only training needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward.choose import compile_forward
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.models.load import ModelLoadError, build_model
from torchvision import models

CLASSES = 3


def section(model: str, **keys: object) -> WorkerConfig:
    return WorkerConfig.resolve({"model": model, "num_classes": CLASSES, **keys}, {})


def plain(name: str, **options: Any) -> Any:
    torch.manual_seed(3)
    return models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, **options).eval()


def test_segmentation_by_name(tmp_path: Path) -> None:
    source = plain("lraspp_mobilenet_v3_large")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    module = build_model(section("lraspp_mobilenet_v3_large", weights="w.safetensors"), tmp_path)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(module(images)["out"], source(images)["out"])
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_the_head_of_training_is_left_out(tmp_path: Path) -> None:
    source = plain("deeplabv3_mobilenet_v3_large", aux_loss=True)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    module = build_model(section("deeplabv3_mobilenet_v3_large", weights="w.pth"), tmp_path)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        answer = module(images)
        assert torch.equal(answer["out"], source(images)["out"])
    assert list(answer) == ["out"]
    assert not any(key.startswith("aux") for key in module.state_dict())
    save_file(module.state_dict(), tmp_path / "again.safetensors")
    again = build_model(section("deeplabv3_mobilenet_v3_large", weights="again.safetensors"), tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(images)["out"], answer["out"])


def test_our_own_compilers_leave_it_alone(tmp_path: Path) -> None:
    """They are for classifiers: what gives no tensor cannot be compared."""
    config = section("lraspp_mobilenet_v3_large", weights_source="random")
    module = build_model(config, tmp_path)
    cpu = torch.device("cpu")
    with torch.inference_mode():
        compiled = compile_forward(module, config, cpu, (3, 32, 32), Measurements.of(tmp_path, config, tmp_path))
    assert (compiled.name, compiled.forward) == ("off", module)
    winograd = section("lraspp_mobilenet_v3_large", weights_source="random", compile="winograd")
    with pytest.raises(ValueError, match="winograd needs a torchvision classifier"):
        compile_forward(module, winograd, cpu, (3, 32, 32), Measurements.of(tmp_path, winograd, tmp_path))


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.ones(2)}, tmp_path / "other.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:300])
    for keys, said in (
        ({"weights": "short.pth"}, "corrupt"),
        ({"weights": "other.pth"}, "does not fit fcn_resnet50: key 'backbone.conv1.weight' is missing"),
        ({}, "has no weights"),
    ):
        with pytest.raises(ModelLoadError, match=said):
            build_model(section("fcn_resnet50", **keys), tmp_path)
    with pytest.raises(ModelLoadError, match="is no torchvision segmentation model; near it are"):
        build_model(section("fcn_resnet"), tmp_path)
