"""json_lists: nested lists are read whoever reads them; what is no such list is refused in words that say why."""

from __future__ import annotations

import pytest

from tests.unit.formats.bodies import Refused, assert_refused

pytestmark = pytest.mark.usefixtures("json_reader")

BROKEN: dict[str, Refused] = {
    "truncated JSON": (b'{"data": [[0.1, 0.', "", 400, "not valid JSON"),
    "JSON list": (b"[1, 2]", "", 400, '"data"'),
    "JSON without data": (b'{"x": [1]}', "", 400, '"data"'),
    "JSON string": (b'{"data": "x"}', "", 400, "got text"),
    "JSON with a word inside": (b'{"data": [[1, "a"]]}', "", 400, "numbers only"),
    "JSON with null inside": (b'{"data": [[1, null]]}', "", 400, "numbers only"),
    "JSON with a boolean inside": (b'{"data": [[1, true]]}', "", 400, "numbers only"),
    "ragged JSON": (b'{"data": [[1, 2], [3]]}', "", 400, "ragged"),
    "ragged JSON that adds up": (b'{"data": [[1, 2], [3], [4, 5, 6]]}', "", 400, "ragged"),
    "JSON hiding a list": (b'{"data": [[1, [2]]]}', "", 400, "mixes"),
    "JSON NaN": (b'{"data": [[NaN, 1]]}', "", 400, "not valid JSON"),
    "JSON beyond float32": (b'{"data": [[1e300, 1]]}', "", 422, "finite"),
    "deep JSON": (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "", 400, "."),
    "two million lists": (b'{"data": [' + b"[1]," * 2_000_000 + b"[1]]}", "", 413, "lists"),
    "a bracket beside two million numbers": (
        b'{"x": "[", "data": [' + b"1," * 2_000_000 + b"1]}",
        "",
        400,
        "nothing but",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_say_what_is_wrong(name: str) -> None:
    assert_refused(BROKEN[name])
