"""Archives that torch-model-archiver made are served, and it is said what they lack."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from smartbatch.errors import UsageError
from smartbatch.server.archives import Archive, lacks


def mar(path: Path, handler: str, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "m", "handler": handler}}))
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return path


def test_of_torchserves_own_handler_it_is_said_what_it_needs(tmp_path: Path) -> None:
    said = lacks(mar(tmp_path / "old.mar", "image_classifier"))
    assert said is not None
    assert said.startswith("old.mar is served as it is, by its own handler (image_classifier): one bad request fails")
    assert "pip install 'smartbatch[torchserve]'" in said
    assert "`smartbatch migrate image_classifier`" in said


def test_of_a_handler_of_ones_own_too(tmp_path: Path) -> None:
    said = lacks(mar(tmp_path / "old.mar", "my_handler.py", my_handler__py=""))
    assert said is not None
    assert "pip install" not in said
    assert "`smartbatch migrate my_handler.py`" in said
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(tmp_path / "old.mar") as archive:
        archive.extractall(folder)
    assert lacks(folder) == said.replace("old.mar", "unpacked")


def test_of_ours_nothing(tmp_path: Path) -> None:
    archive = mar(
        tmp_path / "new.mar", "handler.py", smartbatch_handler__py="", **{"model-config__yaml": "handler: {}"}
    )
    assert lacks(archive) is None
    config = Archive(archive).config()
    assert config is not None
    assert Archive(archive).example(config) is None


def test_what_is_no_archive_is_left_to_torchserve(tmp_path: Path) -> None:
    (tmp_path / "no.mar").write_bytes(b"no zip")
    assert lacks(tmp_path / "no.mar") is None
    with pytest.raises(UsageError, match=r"no\.mar is no archive"):
        Archive(tmp_path / "no.mar").config()


def test_a_configuration_that_no_worker_would_take(tmp_path: Path) -> None:
    archive = mar(tmp_path / "m.mar", "h.py", smartbatch_handler__py="", **{"model-config__yaml": "handler: {topk: 0}"})
    with pytest.raises(UsageError, match="topk must be a number of at least 1"):
        Archive(archive).config()
