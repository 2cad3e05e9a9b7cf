"""Fixtures that unit tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["in C", "by simdjson"])
def json_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    """With a C compiler, and without."""
    from smartbatch_worker.kernels import json_numbers  # torch, which most unit tests do not need

    json_numbers.prepare(built)
    assert json_numbers._library is not None
    if request.param == "by simdjson":
        monkeypatch.setattr(json_numbers, "_library", None)
