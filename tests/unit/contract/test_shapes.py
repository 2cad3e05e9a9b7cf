"""shapes: one answer to what an item may look like."""

from __future__ import annotations

import pytest
from smartbatch_worker.contract.pictures import height_and_width
from smartbatch_worker.contract.shapes import concrete_shape


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((3, None, None), (3, 64, 48)),
        ((3, None, 32), (3, 64, 32)),
        ((3, 8, 8), (3, 8, 8)),
        ((4,), (4,)),
        ((None,), None),
        ((None, 4, 4), None),
        (None, None),
    ],
)
def test_open_sizes_of_images_are_known_and_others_are_not(
    shape: tuple[int | None, ...] | None, found: tuple[int, ...] | None
) -> None:
    assert concrete_shape(shape, (64, 48)) == found


def test_sides_are_read_as_json_has_them() -> None:
    assert [height_and_width(sides) for sides in (None, 8, (8, 9), [8, 9])] == [None, (8, 8), (8, 9), (8, 9)]


def test_images_of_any_size_have_none() -> None:
    assert concrete_shape((3, None, None), None) is None
    assert concrete_shape((3, 8, 8), None) == (3, 8, 8)


def test_others_may_be_given() -> None:
    assert concrete_shape((None, 4), (64, 64), 8) == (8, 4)
