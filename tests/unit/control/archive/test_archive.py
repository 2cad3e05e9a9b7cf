"""What an archive is made of, before any model is loaded: settings, labels, overrides, where weights come from."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from smartbatch.archive.build import ArchiveError, ArchiveSettings, build_archive
from smartbatch.archive.published.torchvision import choose_weights, fetch, recognise
from smartbatch.archive.stage import HANDLER_DIR, read_labels, stage
from smartbatch.commands.options import parse_overrides
from smartbatch.errors import UsageError
from smartbatch_worker.contract.config import WorkerConfig
from torchvision import models
from torchvision.models._api import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """Some model.py; staging does not import it."""
    path = tmp_path / "affine" / "model.py"
    path.parent.mkdir()
    path.write_text("import torch\n")
    return path


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a proxy that refuses every connection: port 9 is discard's, and nothing listens there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "-x"}, "'-x'"),
        ({"name": "a b"}, "'a b'"),
        ({"version": " "}, "version"),
        ({"model": "resnet18", "model_file": "m"}, "--model and --model-file"),
        ({"model": "resnet18", "timm": "vit_tiny_patch16_224"}, "--timm and --model exclude"),
        ({"timm": "vit_tiny_patch16_224", "model_file": "m"}, "--timm and --model-file"),
        ({"model_file": "m", "require_pretrained": True}, "--model-file and --require-pretrained"),
        ({"random_weights": True, "require_pretrained": True}, "exclude each other"),
        ({"random_weights": True, "model_path": "m"}, "exclude each other"),
        ({"model_path": "absent.pth"}, "absent.pth: no such file"),
        ({"handler": "absent.py"}, "absent.py"),
        ({"labels": "absent.json"}, "absent.json"),
        ({"extra_files": ("absent.txt",)}, "absent.txt"),
    ],
)
def test_settings_that_break_a_rule(keys: dict[str, Any], said: str, model_file: Path) -> None:
    values: dict[str, Any] = dict(keys)
    for key in {"model_file", "model_path", "handler", "labels"} & keys.keys():
        values[key] = model_file if keys[key] == "m" else Path(keys[key])
    if "extra_files" in keys:
        values["extra_files"] = tuple(map(Path, keys["extra_files"]))
    with pytest.raises(UsageError, match=said):
        ArchiveSettings(**values)


def test_names_follow_the_model(model_file: Path) -> None:
    other = model_file.with_name("net.py")
    other.write_text("")
    assert ArchiveSettings().archive_name == "resnet18"
    assert ArchiveSettings(model="vit_b_16").archive_name == "vit_b_16"
    assert ArchiveSettings(timm="convnext_atto.d2_in1k").archive_name == "convnext_atto"
    assert ArchiveSettings(model_file=model_file).archive_name == "affine"
    assert ArchiveSettings(model_file=other).archive_name == "net"
    assert ArchiveSettings(model_file=other, name="x").archive_path == Path("model_store/x.mar")


def test_an_archive_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "resnet18.mar").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"resnet18\.mar exists; --force"):
        build_archive(ArchiveSettings(output=tmp_path))
    assert (tmp_path / "resnet18.mar").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.json", '["cat", "dog"]'),
        ("l.json", '{"1": "dog", "0": "cat"}'),
        ("l.json", '{"0": ["n01", "cat"], "1": ["n02", "dog"]}'),
        ("l.txt", "cat\ndog\n"),
    ],
)
def test_labels_in_every_spelling(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "said"), [('{"0": "a", "2": "b"}', "without gaps"), ("{", "malformed"), ("3", "must hold a list")]
)
def test_labels_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_labels(tmp_path / "l.json")


def test_overrides() -> None:
    assert parse_overrides(["topk=3", "image_mean=0.5,0.5,0.5"]) == {"topk": "3", "image_mean": "0.5,0.5,0.5"}
    for text in ("topk", "=3"):
        with pytest.raises(UsageError, match="KEY=VALUE"):
            parse_overrides([text])


def staged_config(tmp_path: Path, **keys: Any) -> dict[str, Any]:
    folder = tmp_path / "staged"
    folder.mkdir()
    stage(ArchiveSettings(**keys), folder, lambda _: None)
    loaded = yaml.safe_load((folder / "model-config.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_overrides_reach_the_part_they_belong_to(tmp_path: Path, model_file: Path) -> None:
    config = staged_config(
        tmp_path,
        model_file=model_file,
        input_shape="3,*,*",
        overrides={"responseTimeout": "7", "compile": "off", "topk": "3", "image_mean": "0.1,0.2,0.3"},
    )
    assert config["responseTimeout"] == 7
    section = config["handler"]
    assert WorkerConfig.resolve(section, {}).input_shape == (3, None, None)
    assert (section["compile"], section["topk"], section["image_mean"]) == ("off", 3, [0.1, 0.2, 0.3])
    assert section["model"] == "model.py"


def test_a_program_beats_a_classifiers_name_and_says_so(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(2, 4),))
    torch.export.save(program, tmp_path / "net.pt2")
    said: list[str] = []
    settings = ArchiveSettings(model="resnet18", model_path=tmp_path / "net.pt2")
    assert settings.archive_name == "resnet18"
    (tmp_path / "staged").mkdir()
    assert stage(settings, tmp_path / "staged", said.append).section["model"] == "model.pt2"
    assert "resnet18 is only the archive's name" in said[0]


def test_unknown_keys_and_bad_values_stop(tmp_path: Path, model_file: Path) -> None:
    with pytest.raises(UsageError, match="precison"):
        staged_config(tmp_path, model_file=model_file, overrides={"precison": "bf16"})


def test_files_must_not_replace_the_handler(tmp_path: Path, model_file: Path) -> None:
    mine = tmp_path / "smartbatch_handler.py"
    mine.write_text("")
    with pytest.raises(UsageError, match="already has a smartbatch_handler"):
        staged_config(tmp_path, model_file=model_file, handler=mine)


def test_base_config_leaves_registration_alone() -> None:
    base = yaml.safe_load((HANDLER_DIR / "model-config.yaml").read_text())
    assert not {"minWorkers", "maxWorkers", "batchSize", "maxBatchDelay"} & base.keys()
    assert {"responseTimeout", "startupTimeout", "jobQueueSize", "maxRetryTimeoutInSec", "handler"} == base.keys()
    WorkerConfig.resolve(base["handler"], {})


@pytest.mark.usefixtures("no_network")
def test_without_a_network_the_weights_are_random_and_say_so() -> None:
    said: list[str] = []
    weights = choose_weights(ArchiveSettings(), "resnet18", said.append)
    assert (weights.path, weights.source, weights.note) == (None, "random", "random seed 0 (NOT pretrained)")
    assert weights.categories[0] == "tench"
    assert "WARNING" in said[-1]
    assert "RANDOM" in said[-1]


@pytest.mark.usefixtures("no_network")
def test_require_pretrained_without_a_network_is_an_error() -> None:
    with pytest.raises(ArchiveError, match=r"cannot be fetched from https://.*resnet18"):
        choose_weights(ArchiveSettings(require_pretrained=True), "resnet18", lambda _: None)


def test_pretrained_weights_have_their_own_classes() -> None:
    with pytest.raises(UsageError, match="has 1000 classes"):
        choose_weights(ArchiveSettings(num_classes=10), "resnet18", lambda _: None)


def test_unknown_classifiers_are_named() -> None:
    with pytest.raises(ArchiveError, match=r"'resnt18' is no torchvision classifier.*resnet18"):
        choose_weights(ArchiveSettings(), "resnt18", lambda _: None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fasterrcnn_resnet18", "is no torchvision detector; near it are .*fasterrcnn_resnet50_fpn"),
        ("fcn_resnet18", "is no torchvision segmentation model; near it are .*fcn_resnet50"),
        ("fasterrcnn", "is no torchvision classifier.*; near it are .*fasterrcnn_"),
    ],
)
def test_unknown_detectors_and_segmenters_are_named(name: str, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        choose_weights(ArchiveSettings(), name, lambda _: None)


def test_a_file_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({}, path)
    assert choose_weights(ArchiveSettings(model_path=path), "resnet18", print).note == "file mine.pth"
    with pytest.raises(ArchiveError, match="is not one of torchvision's pretrained resnet18 weights"):
        choose_weights(ArchiveSettings(model_path=path, require_pretrained=True), "resnet18", print)


NAMES = [
    name for module in (models, models.detection, models.segmentation) for name in models.list_models(module=module)
]


@pytest.mark.parametrize("name", NAMES)
def test_every_models_preset_is_a_valid_configuration(name: str) -> None:
    weights = choose_weights(ArchiveSettings(random_weights=True), name, lambda _: None)
    WorkerConfig.resolve(weights.image_keys, {})
    json.dumps(weights.image_keys)


def test_detection_and_segmentation_see_pictures_in_their_own_size() -> None:
    detection = choose_weights(ArchiveSettings(random_weights=True), "fasterrcnn_resnet50_fpn", print)
    config = WorkerConfig.resolve(detection.image_keys, {})
    assert (config.image_size, config.image_mean, config.image_std) == (None, (0, 0, 0), (1, 1, 1))
    assert detection.categories[:2] == ["__background__", "person"]
    segmentation = choose_weights(ArchiveSettings(random_weights=True), "fcn_resnet50", print)
    config = WorkerConfig.resolve(segmentation.image_keys, {})
    assert (config.image_size, config.image_mean) == (None, (0.485, 0.456, 0.406))
    assert len(segmentation.categories) == 21
    masks = choose_weights(ArchiveSettings(random_weights=True), "maskrcnn_resnet50_fpn_v2", print).image_keys
    assert masks["max_pixels"] < detection.image_keys["max_pixels"], "a mask is as large as its picture"


class Site(SimpleHTTPRequestHandler):
    """Static files, silently."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is published under; torch's cache is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def publish(folder: Path, address: str, digest: str | None = None) -> Any:
    path = folder / "weights.pth"
    torch.save({"w": torch.ones(2)}, path)
    name = f"tiny-{(digest or hashlib.sha256(path.read_bytes()).hexdigest())[:8]}.pth"
    path.rename(folder / name)

    class Tiny(WeightsEnum):  # type: ignore[misc]
        V1 = Weights(f"{address}/{name}", partial(ImageClassification, crop_size=8), {"categories": ["a"]})

    return Tiny.V1


def test_weights_come_through_torchvisions_own_download(site: tuple[Path, str], tmp_path: Path) -> None:
    published = publish(*site)
    path = fetch(published)
    assert torch.load(path, weights_only=True)["w"].tolist() == [1, 1]
    assert recognise(path, [published]) is published
    assert fetch(published) == path  # from the cache
    path.write_bytes(b"damaged")
    with pytest.raises(ArchiveError, match="delete the file and retry"):
        fetch(published)
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(ArchiveError, match=r"is not what http://.* publishes"):
        fetch(published)


def test_a_download_of_another_hash_is_refused(site: tuple[Path, str]) -> None:
    with pytest.raises(ArchiveError, match="damaged"):
        fetch(publish(*site, digest="0123456789"))


def test_every_published_file_carries_its_hash() -> None:
    from smartbatch.archive.published.torchvision import _PUBLISHED_HASH

    for name in NAMES:
        for weights in models.get_model_weights(name):
            assert _PUBLISHED_HASH.search(weights.url), weights.url
