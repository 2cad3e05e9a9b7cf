"""An answer under load, held against the answer alone."""

from __future__ import annotations

import json

import pytest
from smartbatch_load.load.answers import Expected, from_json, mismatch, parse, to_json


def raw(*values: float) -> str:
    return json.dumps({"result": list(values)})


def topk(*entries: tuple[str, float]) -> str:
    return json.dumps({"result": [{"label": n, "index": i, "score": s} for i, (n, s) in enumerate(entries)]})


def test_the_same_answer_is_right() -> None:
    assert mismatch(parse(raw(1, 5, 2)), raw(1, 5, 2)) is None
    assert mismatch(parse(topk(("cat", 0.9), ("dog", 0.1))), topk(("cat", 0.9), ("dog", 0.1))) is None


def test_rounding_is_right() -> None:
    assert mismatch(parse(raw(1, 5, 2)), raw(1.1, 4.9, 2.1)) is None


def test_another_rows_answer_is_wrong() -> None:
    assert mismatch(parse(raw(1, 5, 2)), raw(5, 1, 2)) == "best entry is number 0, alone it was number 1"
    wrong = mismatch(
        parse(topk(("cat", 0.9), ("dog", 0.1))),
        json.dumps(
            {"result": [{"label": "dog", "index": 1, "score": 0.9}, {"label": "cat", "index": 0, "score": 0.1}]}
        ),
    )
    assert wrong == "best label is '1 dog', alone it was '0 cat'"


def test_another_score_is_wrong() -> None:
    assert mismatch(parse(raw(1, 5, 2)), raw(1, 8, 2)) == "best score is 8, alone it was 5"


def test_a_near_tie_may_turn() -> None:
    assert mismatch(parse(raw(5.0, 5.01)), raw(5.01, 5.0)) is None


def test_a_shorter_answer_is_wrong() -> None:
    assert mismatch(parse(raw(1, 2)), raw(2)) == "answer has 1 entries, alone it had 2"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{", "not JSON"),
        ('{"error": {}}', "empty"),
        ('{"result": []}', "empty"),
        ('{"result": ["cat"]}', "answer has 0 entries, alone it had 1"),
    ],
)
def test_what_is_no_answer_is_said(body: str, says: str) -> None:
    assert says in (mismatch(Expected((), (1.0,)), body) or "")


BOX = '[{"label": "cat", "score": 0.9, "box": [0, 0, 4, 4]}]'


@pytest.mark.parametrize(
    ("alone", "other", "says"),
    [
        ('{"result": {"x": [1, 5], "text": "yes"}}', '{"result": {"x": [1, 5], "text": "no"}}', "other texts"),
        ('{"predictions": [[1, 2], [3, 4]]}', '{"predictions": [[1, 2], [3, 4, 5]]}', "has 5 entries, alone it had 4"),
        (BOX, "[]", "empty"),
        (BOX, BOX.replace("cat", "dog"), "other texts"),
        ("true", "false", "other texts"),
        ("a,b", "a,c", "other bytes"),
        ("a,b", "1", "other bytes"),
    ],
)
def test_answers_of_any_form(alone: str, other: str, says: str) -> None:
    assert mismatch(parse(alone), alone) is None
    assert says in (mismatch(parse(alone), other) or "")
    assert from_json(to_json({"a": parse(alone)})) == {"a": parse(alone)}


def test_parts_of_an_answer_are_in_one_order() -> None:
    assert mismatch(parse('{"a": [1], "b": [2]}'), '{"b": [2], "a": [1]}') is None


def test_items_of_one_request_are_laid_end_to_end() -> None:
    assert parse('{"result": [[1, 2], [3, 4]]}').scores == (1, 2, 3, 4)


def test_labels_that_appear_twice_are_told_apart_by_their_index() -> None:
    assert parse(topk(("crane", 0.6), ("crane", 0.4))).labels == ("0 crane", "1 crane")


def test_answers_survive_the_way_to_another_process() -> None:
    answers = {"a": parse(raw(1, 2)), "b": parse(topk(("cat", 0.5)))}
    assert from_json(to_json(answers)) == answers
