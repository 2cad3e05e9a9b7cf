"""timm: models of its registry, filled as others are; nothing is fetched, and nobody needs it for anything else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import ModelLoadError, build_model

NAME = "convnext_atto"


def build(folder: Path, model: str = f"timm/{NAME}", **keys: Any) -> torch.nn.Module:
    return build_model(WorkerConfig.resolve({"model": model, "num_classes": 5, **keys}, {}), folder)


@pytest.mark.parametrize("name", [NAME, "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_timm_by_name(tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    source = timm.create_model(name, num_classes=5).eval()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    module = build(tmp_path, f"timm/{name}", weights="w.safetensors")
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(module(images), source(images))
    assert not module.training


def test_random_weights_are_the_same_every_time(tmp_path: Path) -> None:
    one, other = (build(tmp_path, weights_source="random") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.ones(2)}, tmp_path / "other.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:300])
    for model, keys, said in (
        (f"timm/{NAME}", {"weights": "short.pth"}, "corrupt"),
        (f"timm/{NAME}", {"weights": "other.pth"}, f"does not fit timm/{NAME}: key 'stem.0.weight' is missing"),
        (f"timm/{NAME}", {}, "has no weights"),
        ("timm/convnext_ato", {}, r"has no model 'convnext_ato'; near it are .*convnext_atto"),
        (f"timm/{NAME}.nobody", {}, "knows no weights 'nobody' of convnext_atto; it knows d2_in1k"),
        ("timm/hf-hub:someone/convnext_atto", {}, "has no model"),
        ("timm/local-dir:/etc", {}, "has no model"),
    ):
        with pytest.raises(ModelLoadError, match=said):
            build(tmp_path, model, **keys)


def test_where_timm_is_missing_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'smartbatch\[timm\]'"):
        build(tmp_path, weights_source="random")
