"""json_numbers: what it reads is what simdjson reads, bit by bit; what it is not sure of it leaves alone."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.formats import json_lists
from smartbatch_worker.kernels import json_numbers

LIMIT = 2**20
CONFIG = WorkerConfig.resolve({"max_elements": LIMIT}, {})
NUM_EXAMPLES = int(os.environ.get("JSON_EXAMPLES", "500"))
NUM_SPOILT = 40 * NUM_EXAMPLES
often = settings(max_examples=NUM_EXAMPLES, derandomize=True, deadline=None, database=None)


@pytest.fixture(autouse=True, scope="module")
def _compiled(built: Path) -> None:
    json_numbers.prepare(built)
    assert json_numbers._library is not None


def read(text: str) -> torch.Tensor | None:
    return json_numbers.read(bytearray(text.encode()), LIMIT, LIMIT)


def by_simdjson(text: str) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_numbers, "_library", None)
        return json_lists.read(text.encode(), CONFIG)


def assert_same(text: str, taken: torch.Tensor | None) -> None:
    """Bit by bit, so that -0 is not 0."""
    if taken is not None:
        expected = by_simdjson(text)
        assert taken.shape == expected.shape
        assert taken.view(torch.int32).tolist() == expected.view(torch.int32).tolist(), text


def ways_to_write(number: float) -> list[str]:
    return [
        repr(number),
        *(f"{number:.{digits}e}" for digits in (0, 5, 8, 16, 17)),
        *(f"{number:.{digits}f}" for digits in (1, 6, 15, 17) if abs(number) < 1e6),
        f"{number:.9g}".replace("e", "E"),
    ]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False, allow_infinity=False))
@often
def test_a_number_in_any_form_is_simdjsons(number: float) -> None:
    for text in ways_to_write(number):
        body = '{"data": [' + text + "]}"
        try:
            assert_same(body, read(body))
        except RowError:
            assert read(body) is None


@given(st.integers(-(2**64), 2**65))
@often
def test_an_integer_is_simdjsons(number: int) -> None:
    body = f'{{"data": [{number}]}}'
    try:
        assert_same(body, read(body))
    except RowError:
        assert read(body) is None


@given(st.floats(width=32, min_value=2.0**-100, max_value=2.0**100), st.integers(-20, 20))
@often
def test_numbers_beside_the_middle_of_two_floats_round_as_doubles_do(low: float, steps: int) -> None:
    high = float(np.nextafter(np.float32(low), np.float32(np.inf)))
    number = (low + high) / 2  # exact: a double has 29 bits more
    number += steps * float(np.spacing(number))
    for text in (repr(number), f"-{number:.17e}", f"{number:.18e}"):
        assert_same('{"data": [' + text + "]}", read('{"data": [' + text + "]}"))


def test_wholes_in_the_middle_of_two_floats_are_exact() -> None:
    body = '{"data": [16777217, 16777219, 33554435, -16777217, 1677721.7, 4503599627370497]}'
    taken = read(body)
    assert taken is not None
    assert_same(body, taken)


@pytest.mark.parametrize(
    "lists", [[1.5], [[1, 2, 3]], [[1], [2]], [[[0.25, 1e-5], [3, 4]]] * 3, [[[[[[[[7]]]]]]]], list(range(1000))]
)
@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" ,\t", "\r\n:\n")}])
def test_lists_of_any_depth_and_style_are_read(lists: object, style: dict[str, object]) -> None:
    body = "\n" + json.dumps({"data": lists}, **style) + " \n"  # type: ignore[arg-type]
    taken = read(body)
    assert taken is not None
    assert torch.equal(taken, torch.tensor(lists, dtype=torch.float32))


def test_what_programs_write_is_read() -> None:
    """Not left to simdjson, that is: then it would be right, and slow."""
    dice = np.random.default_rng(0)
    for numbers in (
        dice.random(2000),
        dice.random(2000).astype(np.float32),
        dice.normal(size=2000) * 1e-4,
        dice.normal(size=2000).astype(np.float32) * 1e6,
        dice.integers(-(2**31), 2**31, 2000),
        np.zeros(3) * -1.0,
    ):
        body = json.dumps({"data": numbers.tolist()})
        taken = read(body)
        assert taken is not None
        assert_same(body, taken)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "}",
        "{}",
        "{",
        '{"data"',
        '{"data"}',
        '{"data":}',
        '{"data": 1}',
        '{"data": []}',
        '{"data": [[]]}',
        '{"data": [1}',
        '{"data": [1]]}',
        '{"data": [1] 2}',
        '{"data": [1]} x}',
        '{"data": [1],}',
        '{"data": [1], "x": 1}',
        '{"x": 1, "data": [1]}',
        '{"data": [1], "data": [2]}',
        '{"datA": [1]}',
        '{"data" [1]}',
        '[{"data": [1]}',
        '{"data": [1,]}',
        '{"data": [,1]}',
        '{"data": [1 2]}',
        '{"data": [01]}',
        '{"data": [-]}',
        '{"data": [+1]}',
        '{"data": [.5]}',
        '{"data": [1.]}',
        '{"data": [1.e5]}',
        '{"data": [1e]}',
        '{"data": [1e+]}',
        '{"data": [1e00005]}',
        '{"data": [0x1]}',
        '{"data": [1_0]}',
        '{"data": [NaN]}',
        '{"data": [-Infinity]}',
        '{"data": [null]}',
        '{"data": ["1"]}',
        '{"data": [1e39]}',
        '{"data": [3.4028236e38]}',
        '{"data": [1e-39]}',
        '{"data": [1e-400]}',
        '{"data": [9223372036854775808]}',
        '{"data": [1.23456789012345678901]}',
        '{"data": [[1, 2], [3]]}',
        '{"data": [[1, 2], [3], [4, 5, 6]]}',
        '{"data": [[1], 2]}',
        '{"data": [1, [2]]}',
        '{"data": [[1], [[2]]]}',
        '{"data": [[[1]], [2]]}',
        '{"data": [[[1]], [[2], [3]]]}',
        '{"data": [[[[[[[[[1]]]]]]]]]}',
        '{"data": [1\x00]}',
        '{"data": [1]\x00}',
        '{"data": [1\xa0]}',
    ],
)
def test_what_is_unusual_or_wrong_is_left_alone(text: str) -> None:
    assert read(text) is None


def test_no_part_of_a_body_is_taken_for_a_body() -> None:
    body = b'{"data": [[0.25, -12345678.5, 1e-7], [0, 12345678901234567, 0.00012345678901234567]]}'
    assert json_numbers.read(body, LIMIT, LIMIT) is not None
    for end in range(len(body)):
        assert json_numbers.read(body[:end], LIMIT, LIMIT) is None
        assert end == len(body) - 1 or json_numbers.read(body[:end] + b"}", LIMIT, LIMIT) is None


def test_spoilt_bodies_are_read_as_simdjson_reads_them_or_not_at_all() -> None:
    dice = random.Random(3)
    original = json.dumps(
        {"data": [[dice.uniform(-300, 300), dice.random(), dice.randrange(10**12)] for _ in range(3)]}
    )
    num_taken = 0
    for _ in range(NUM_SPOILT):
        text = list(original)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(text))
            text[at : at + dice.randrange(2)] = dice.choice('0123456789.-+eE,[]{}" \n"x')
        body = "".join(text)
        taken = read(body)
        num_taken += taken is not None
        assert_same(body, taken)
    assert num_taken > NUM_SPOILT // 20


def test_limits() -> None:
    body = b'{"data": [[1, 2], [3, 4]]}'
    assert json_numbers.read(body, 4, 3) is not None
    assert json_numbers.read(body, 3, 3) is None
    assert json_numbers.read(body, 4, 2) is None


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(json_numbers, "_library", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


@pytest.mark.usefixtures("not_compiled")
def test_without_a_compiler_simdjson_reads_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        json_numbers.prepare(tmp_path)
    assert "json_numbers.c is not used" in caplog.text
    assert "no C compiler" in caplog.text
    assert read('{"data": [1]}') is None
    assert json_lists.read(b'{"data": [1]}', CONFIG).tolist() == [1.0]


@pytest.mark.usefixtures("not_compiled")
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    json_numbers.prepare(tmp_path / "file")
    assert json_numbers._library is None
