"""published/timm: pictures are shown as timm's own evaluation transform shows them, classes have their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from smartbatch.archive.published.timm import choose_timm_weights, labels_of, preprocessing
from smartbatch.archive.settings import ArchiveError, ArchiveSettings
from smartbatch.errors import UsageError
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.formats.images.fit import fit
from timm.data import create_transform, resolve_data_config

TINY = "vit_tiny_patch16_224"


def choose(tmp_path: Path, name: str = TINY, said: list[str] | None = None, **keys: Any) -> Any:
    report = (said if said is not None else []).append
    return choose_timm_weights(ArchiveSettings(timm=name, **keys), name, tmp_path / "w.safetensors", report)


def photograph(seed: int, height: int, width: int) -> Image.Image:
    """Colours that change over the picture, with edges and noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    blocks = np.asarray(Image.fromarray(coarse[::-1]).resize((width, height), Image.Resampling.NEAREST)).astype(int)
    noise = generator.integers(-20, 21, (height, width, 3))
    return Image.fromarray(((2 * smooth + blocks) // 3 + noise).clip(0, 255).astype(np.uint8))


def pixels(image: Image.Image) -> torch.Tensor:
    """uint8 [3, H, W], in memory as the server decodes it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


CONFIGS: dict[str, dict[str, Any]] = {
    "a ViT's": {"crop_pct": 0.9, "interpolation": "bicubic"},
    "the default": {},
    "bilinear, odd sizes": {"crop_pct": 0.93, "interpolation": "bilinear", "input_size": (3, 237, 237)},
    "all of the shorter side": {"crop_pct": 1.0, "interpolation": "bicubic", "input_size": (3, 288, 288)},
    "squash": {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic"},
    "squash and cut": {"crop_pct": 0.95, "crop_mode": "squash", "interpolation": "bicubic"},
    "border": {"crop_pct": 1.0, "crop_mode": "border", "interpolation": "bicubic"},
    "border and cut": {"crop_pct": 0.9, "crop_mode": "border", "interpolation": "bicubic"},
    "a rectangle": {"crop_pct": 0.9, "interpolation": "bicubic", "input_size": (3, 128, 192)},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_pictures_are_shown_as_timm_shows_them(name: str) -> None:
    """To within two levels of 255: timm resizes with Pillow, the server with torch's version of the same code."""
    config = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5), **CONFIGS[name]}
    data = resolve_data_config(pretrained_cfg=config)
    theirs = create_transform(**data, normalize=False)
    ours = WorkerConfig.resolve(preprocessing(config), {})
    for seed, (height, width) in enumerate(((300, 400), (401, 300), (100, 333), (224, 224))):
        image = photograph(seed, height, width)
        expected = torch.as_tensor(theirs(image))
        shown = fit(pixels(image), ours)
        assert shown.shape == expected.shape
        difference = (shown.int() - expected.int()).abs()
        assert int(difference.max()) <= 2
        assert float((difference > 1).float().mean()) < 1e-4


def test_every_published_models_preprocessing_is_a_valid_configuration() -> None:
    refused = set()
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        try:
            keys = preprocessing(config.to_dict())
        except ArchiveError as error:
            refused.add((name.partition("_")[0], "crop_pct 1.15" in str(error)))
            continue
        json.dumps(keys)
        assert WorkerConfig.resolve(keys, {}).image_size == tuple(config.input_size[1:])
    assert refused == {("volo", True)}


def test_what_there_is_no_setting_for_is_refused() -> None:
    with pytest.raises(ArchiveError, match=r"interpolation 'lanczos'; supported are center, squash, border, and bilin"):
        preprocessing({"interpolation": "lanczos"})


def test_labels_are_timms() -> None:
    labels = labels_of(timm.get_pretrained_cfg(TINY))
    assert (len(labels), labels[0]) == (1000, "tench, Tinca tinca")
    assert labels_of(timm.get_pretrained_cfg("vit_small_patch14_dinov2.lvd142m")) == []


def test_random_weights_say_so(tmp_path: Path) -> None:
    weights = choose(tmp_path, random_weights=True)
    assert (weights.path, weights.source, weights.note) == (None, "random", "random seed 0 (NOT pretrained)")
    assert (weights.image_keys["image_resize"], weights.image_keys["image_crop"]) == (248, 224)
    assert weights.image_keys["image_interpolation"] == "bicubic"


def test_a_file_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    assert choose(tmp_path, model_path=path).note == "file mine.safetensors"
    with pytest.raises(UsageError, match="cannot be told"):
        choose(tmp_path, model_path=path, require_pretrained=True)


def test_pretrained_weights_are_timms_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model(TINY)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: made)
    weights = choose(tmp_path)
    assert weights.is_staged
    assert weights.source == "pretrained"
    assert weights.note == f"pretrained timm {TINY}.augreg_in21k_ft_in1k"
    assert load_file(weights.path).keys() == made.state_dict().keys()


def test_without_a_network_the_weights_are_random_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, pretrained: bool) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    said: list[str] = []
    assert choose(tmp_path, said=said).source == "random"
    assert "WARNING" in said[-1]
    assert "no route to host" in said[-1]
    assert "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k on the Hugging Face hub" in said[-1]
    with pytest.raises(ArchiveError, match="cannot be fetched: no route to host"):
        choose(tmp_path, require_pretrained=True)


def test_pretrained_weights_have_their_own_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 1000 classes"):
        choose(tmp_path, num_classes=10)


def test_unknown_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"has no model 'vit_tiny_patch16_225'; near it are .*vit_tiny_patch16_224"):
        choose(tmp_path, "vit_tiny_patch16_225")
