"""JSON beyond 64 bits is numbers; what is no JSON is told in a user's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.formats import json_lists

pytestmark = pytest.mark.usefixtures("json_reader")

ANY = WorkerConfig.resolve({"input_shape": None}, {})
AT_MOST_100 = WorkerConfig.resolve({"max_elements": 100}, {})
AS_MANY_AS_SIMDJSON_COUNTS = WorkerConfig.resolve({"max_elements": 2**24}, {})


def read(text: str) -> list[Any]:
    (item,) = decode(bytearray(text.encode()), "application/json", ANY).items
    numbers: list[Any] = item.tolist()
    return numbers


def as_float32(numbers: list[Any]) -> list[Any]:
    lists: list[Any] = np.asarray(numbers, dtype=np.float64).astype(np.float32).tolist()
    return lists


@pytest.mark.parametrize(
    "text",
    [
        "[120000000000000000000, 1, 2]",
        "[-120000000000000000000, 18446744073709551615, 18446744073709551616, -9223372036854775809]",
        "[[1, 99999999999999999999999999999999999999], [0.5, -1e-7]]",
        "[1000000000000000000000.5, 1000000000000000000000e-3, 123456789012345678901E+2]",
        "[18446744073709551616, 1e-400, 0e999, 0.0E+0000]",
        "[12345678901234567890123, 0.1234567890123456789, 1.2345678901234567890123456789]",
    ],
)
def test_numbers_beyond_64_bits_are_numbers(text: str) -> None:
    assert read('{"data": ' + text + "}") == as_float32(json.loads(text))


@settings(max_examples=300)
@given(st.lists(st.integers(-(10**38), 10**38) | st.floats(-1e38, 1e38), min_size=1, max_size=6), st.booleans())
def test_any_number_that_float32_has(numbers: list[Any], beside: bool) -> None:
    document = {"id": 10**30, "data": numbers} if beside else {"data": numbers}
    read_numbers = json_lists.read(json.dumps(document).encode(), AT_MOST_100).tolist()
    assert read_numbers == as_float32([float(number) for number in numbers])


@pytest.mark.parametrize(
    "beside",
    [
        '"id": 123456789012345678901',
        '"id": [[1e309, -1e999], {"x": 123456789012345678901234567890}]',
        '"id": 123456789012345678901, "text": "120000000000000000000 \\\\u12e01234567890123456789"',
        '"id": 123456789012345678901, "text": "\\u00e1234567890123456789012, \\u12345678901234567890123"',
        '"id": 123456789012345678901, "text": "x9999999999999999999999e9999 [1e9999"',
    ],
)
def test_large_numbers_beside_the_data_are_passed_over(beside: str) -> None:
    assert read("{" + beside + ', "data": [1, 2, 3]}') == [1, 2, 3]
    assert read('{"data": [1, 2, 3], ' + beside + "}") == [1, 2, 3]


@pytest.mark.parametrize("number", ["1e39", "1e308", "1e309", "-1e309", "1E+99999", "1" + "0" * 400, "9" * 5000])
def test_beyond_float32_is_422_however_far(number: str) -> None:
    with pytest.raises(RowError, match="beyond float32") as caught:
        read('{"data": [1, ' + number + "]}")
    assert caught.value.status == 422
    allowing = WorkerConfig.resolve({"input_shape": None, "nonfinite": "allow"}, {})
    (item,) = decode(('{"data": [1, ' + number + "]}").encode(), "", allowing).items
    assert item[0] == 1
    assert item[1].isinf()


WRONG = {
    "null": ("[[1, null]]", "holds null"),
    "text": ('[[1, "1"]]', "holds text"),
    "true": ("[true, 1]", "holds true or false"),
    "object": ('[1, {"b64": ""}]', "holds an object"),
    "null beside a large number": ("[120000000000000000000, null]", "holds null"),
    "text of a large number": ('[120000000000000000000, "120000000000000000000"]', "holds text"),
    "NaN": ("[1, NaN]", "NaN at byte 13 is no JSON number"),
    "Infinity": ("[1, -Infinity]", "-Infinity at byte 13 is no JSON number"),
    "nan": ("[1, nan]", "nan at byte 13"),
    "cut off": ("[1, 2", "expected ',' or ']'"),
    "trailing comma": ("[1, 2,]", "trailing comma"),
    "leading zero": ("[012]", "invalid number"),
    "large with leading zero": ("[01200000000000000000000]", "invalid number"),
    "point without digits": ("[1.]", "invalid number"),
    "too deep": ("[" * 2000 + "]" * 2000, "nested too deep"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_a_users_words(name: str) -> None:
    text, said = WRONG[name]
    with pytest.raises(RowError, match=said) as caught:
        read('{"data": ' + text + "}")
    assert caught.value.status == 400
    assert not any(code in caught.value.message for code in ("_ERROR", "INCORRECT_TYPE", "tape", "RowError"))


@pytest.mark.parametrize("spell", [str, lambda text: text.replace("data", "d\\u0061ta", 1)])
def test_two_keys_named_data_are_refused(spell: Callable[[str], str]) -> None:
    """simdjson would take the first, everybody else the last."""
    with pytest.raises(RowError, match='2 keys named "data"') as caught:
        read(spell('{"data": [1], "x": 1, "data": [2]}'))
    assert caught.value.status == 400


def test_data_further_in_or_in_a_text_is_another_thing() -> None:
    assert read('{"x": {"data": [9]}, "data": [1], "y": "data"}') == [1]
    with pytest.raises(RowError, match='no "data"'):
        read('{"x": {"data": [1]}}')


def test_text_that_is_not_utf_8_is_said_so() -> None:
    with pytest.raises(RowError, match="not UTF-8"):
        decode(b'{"data": [1], "x": "\xff"}', "", ANY)


def test_a_list_as_long_as_simdjson_can_count() -> None:
    body = b'{"x": 1, "data": [' + b"1," * (2**24 - 1) + b"1]}"
    assert json_lists.read(body, AS_MANY_AS_SIMDJSON_COUNTS).shape == (2**24,)
    with pytest.raises(RowError, match="max_elements"):
        json_lists.read(body.replace(b"[", b"[1,"), AS_MANY_AS_SIMDJSON_COUNTS)
