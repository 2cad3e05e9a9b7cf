"""What is sent where nobody says; no server is asked."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from smartbatch.remote.management import ManagementError
from smartbatch_load.load.choice import payload_for, payload_for_archive
from smartbatch_load.load.payloads import PayloadSettings
from smartbatch_load.load.target import Target
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.description import example_of

from tests.unit.describing import Says

DEFAULT = PayloadSettings(is_default=True)
IDS = {"ids": {"dtype": "int64", "shape": ["L"], "pad": 0}}
PICTURE = {"photo": {"shape": [3, 8, 8], "image": True}}


def described(section: dict[str, Any], example: tuple[bytes, str] | None = None) -> dict[str, Any]:
    config = WorkerConfig.resolve(section, {}).as_dict()
    return {"pid": 1, "config": config, "example": None if example is None else example_of(*example)}


def sent(said: Any, folder: Path, payload: PayloadSettings = DEFAULT) -> PayloadSettings:
    target = Target(model="m", inference_url="http://x", metrics_url=None, management=Says(said))
    return payload_for(payload, target, folder, lambda _: None)


@pytest.mark.parametrize(
    "section",
    [{}, {"input_shape": [1, 8, 8], "image_mean": [0], "image_std": [1]}, {"input_shape": None}, {"inputs": PICTURE}],
)
def test_models_of_pictures_get_pictures(section: dict[str, Any], tmp_path: Path) -> None:
    assert sent(described(section), tmp_path) == PayloadSettings()


@pytest.mark.parametrize(
    ("section", "takes"),
    [
        ({"input_shape": [4]}, r"items of shape \[4\]"),
        ({"inputs": IDS}, "inputs ids"),
        ({"inputs": IDS | PICTURE}, "ids, "),
    ],
)
def test_others_are_not_sent_pictures(section: dict[str, Any], takes: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"the model takes .*{takes}.*, not pictures, .* give --body FILE"):
        sent(described(section), tmp_path)


def test_an_example_is_sent_as_it_is(tmp_path: Path) -> None:
    payload = sent(described({"inputs": IDS}, (b'{"inputs": {"ids": [1]}}', "application/json")), tmp_path / "out")
    assert payload.bodies == (tmp_path / "out" / "example.json",)
    (body,) = payload.read("file")
    assert (body.body, body.content_type) == (b'{"inputs": {"ids": [1]}}', "application/json")


@pytest.mark.parametrize("asked", [PayloadSettings(formats=("npy",)), PayloadSettings(bodies=(Path("a.json"),))])
def test_what_the_user_asks_for_is_sent(asked: PayloadSettings, tmp_path: Path) -> None:
    assert sent(described({"inputs": IDS}, (b"{}", "application/json")), tmp_path, asked) == asked


@pytest.mark.parametrize("said", [None, "text", {"config": {}}, ManagementError(500, "busy")])
def test_of_a_handler_that_says_nothing_pictures_are_what_they_were(said: Any, tmp_path: Path) -> None:
    assert sent(said, tmp_path) == PayloadSettings()


def test_a_study_looks_into_the_archive(tmp_path: Path) -> None:
    def payload(store: Path, payload: PayloadSettings = DEFAULT) -> PayloadSettings:
        return payload_for_archive(payload, store, "m", tmp_path / "out", lambda _: None)

    assert payload(tmp_path) == PayloadSettings(), "it is built first"
    files = {
        "MAR-INF/MANIFEST.json": json.dumps({"model": {"handler": "h.py", "configFile": "model-config.yaml"}}),
        "smartbatch_handler.py": "",
        "model-config.yaml": yaml.safe_dump({"handler": {"inputs": IDS, "example": "example.json"}}),
        "example.json": "{}",
    }
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    assert payload(tmp_path).bodies == (tmp_path / "out" / "example.json",)
    assert payload(tmp_path, replace(DEFAULT, is_default=False)) == PayloadSettings()
