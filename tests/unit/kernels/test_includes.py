"""A library is made again where any file it is made of changes."""

from __future__ import annotations

from pathlib import Path

from smartbatch_worker.kernels.convolutions import layers


def test_every_header_is_part_of_the_librarys_name() -> None:
    assert sorted(layers.INCLUDES) == sorted(path.name for path in Path(layers.__file__).parent.glob("*.h"))
