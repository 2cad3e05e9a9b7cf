"""processor: usable everywhere, also where nobody describes the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
from smartbatch_worker.contract import machine as processor


def test_there_is_at_least_one_core() -> None:
    assert processor.num_cores() >= 1


def test_fields_are_found_by_their_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Path, "read_text", lambda *_, **__: "model\t\t: 1\nmodel name\t: Fast One\nflags\t\t: avx2 fma\n"
    )
    assert (processor.cpuinfo("model"), processor.cpu_name()) == ("1", "Fast One")
    assert processor.cpu_flags() == {"avx2", "fma"}


def test_a_system_without_cpuinfo_has_no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert processor.cpu_flags() == frozenset()
    assert isinstance(processor.cpu_name(), str)
