"""A library is made again where any file it is made of changes."""

from __future__ import annotations

from pathlib import Path

from smartbatch_worker.kernels.convolutions import compiled


def test_every_header_is_part_of_the_librarys_name() -> None:
    assert sorted(compiled.INCLUDES) == sorted(path.name for path in Path(compiled.__file__).parent.glob("*.h"))
