"""Fixtures that unit tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["in C", "by simdjson"])
def json_reader(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a C compiler, and without."""
    from smartbatch_worker.kernels import json_numbers  # torch, which most unit tests do not need

    json_numbers.prepare(tmp_path_factory.mktemp("json"))
    assert json_numbers._library is not None
    if request.param == "by simdjson":
        monkeypatch.setattr(json_numbers, "_library", None)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where winograd.c is compiled already: once for all tests and not for each."""
    from smartbatch_worker.kernels.convolutions import compiled

    folder = tmp_path_factory.mktemp("built")
    compiled.build(folder)
    return folder
