"""outputs: what of a model's answer is wanted, and what cannot be had of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.flow.answers.outputs import (
    best_labels,
    best_mask,
    found_boxes,
    is_detection,
    scores_of,
    top_classes,
    unit_vector,
)

LABELS = ["ant", "bee", "cat"]


def test_top_classes_are_sorted_with_labels() -> None:
    (classes,) = top_classes([torch.tensor([0.0, 2.0, 1.0])], 2, ["a", "b", "c"])
    assert [c["label"] for c in classes] == ["b", "c"]
    assert classes[0]["index"] == 1
    assert classes[0]["score"] == pytest.approx(float(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1]))
    (unlabelled,) = top_classes([torch.tensor([0.0, 2.0])], 9, None)
    assert [c["label"] for c in unlabelled] == ["1", "0"]


def test_softmax_is_computed_in_float32_at_least() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0], dtype=torch.bfloat16)
    ((best,),) = top_classes([logits], 1, None)
    assert best["score"] == float(logits.float().softmax(0)[1])


def test_scores_are_the_tensor_the_logits_or_the_only_one() -> None:
    scores = torch.rand(3)
    for answer in (scores, {"logits": scores}, {"logits": scores, "hidden": torch.rand(2, 2)}, {"any": scores}):
        assert scores_of(answer) is scores
    others: list[Any] = [torch.rand(2, 3), torch.tensor([1, 2]), {"a": scores, "b": scores}, [scores], "text"]
    assert [scores_of(other) for other in others] == [None] * len(others)


def test_labels_are_the_best_class_of_an_item_or_of_each_of_its_rows() -> None:
    rows = torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 9.0]])
    first = {"label": "bee", "index": 1, "score": pytest.approx(float(rows[0].softmax(0)[1]))}
    assert best_labels(rows[0], LABELS) == first
    assert best_labels({"logits": rows}, LABELS) == [
        first,
        {"label": "cat", "index": 2, "score": pytest.approx(float(rows[1].softmax(0)[2]))},
    ]
    assert best_labels(rows[:0], LABELS) == []
    assert best_labels(rows[0], ["ant"])["label"] == "1"


def detection(*scores: float) -> dict[str, torch.Tensor]:
    count = len(scores)
    return {
        "boxes": torch.arange(4.0 * count).view(count, 4),
        "labels": torch.arange(count),
        "scores": torch.tensor(scores),
        "masks": torch.zeros(count, 1, 8, 8),
    }


def test_boxes_are_those_above_the_threshold_best_first() -> None:
    found = found_boxes(detection(0.5, 0.25, 0.75, float("nan")), 0.5, LABELS)
    assert [(entry["label"], entry["score"], entry["box"].tolist()) for entry in found] == [
        ("cat", 0.75, [8.0, 9.0, 10.0, 11.0]),
        ("ant", 0.5, [0.0, 1.0, 2.0, 3.0]),
    ]
    assert [found["label"] for found in found_boxes(detection(0.5, 0.5), 0, None)] == ["0", "1"]
    assert found_boxes(detection(), 0.5, LABELS) == []


@pytest.mark.parametrize(
    "answer",
    [
        torch.zeros(2, 4),
        {"boxes": torch.zeros(2, 4), "scores": torch.zeros(2)},
        {"boxes": torch.zeros(2, 4), "scores": torch.zeros(3), "labels": torch.zeros(2).long()},
        {"boxes": torch.zeros(2, 5), "scores": torch.zeros(2), "labels": torch.zeros(2).long()},
        {"boxes": torch.zeros(()), "scores": torch.zeros(()), "labels": torch.zeros(()).long()},
        {"boxes": torch.zeros(2, 4), "scores": torch.zeros(2), "labels": torch.zeros(2)},
        {"boxes": torch.zeros(2, 4), "scores": torch.zeros(2), "labels": ["a", "b"]},
    ],
)
def test_what_is_no_detection(answer: Any) -> None:
    assert not is_detection(answer)


def test_a_mask_is_the_best_class_of_each_pixel() -> None:
    scores = torch.tensor([[[3.0, 0.0]], [[1.0, 2.0]], [[2.0, 1.0]]])
    for answer in (scores, {"out": scores, "aux": torch.zeros(3, 1, 2)}, {"logits": scores}):
        mask = best_mask(answer)
        assert (mask.dtype, mask.tolist()) == (torch.uint8, [[0, 1]])
    assert best_mask(torch.tensor([[[-1.0, 0.5]]])).tolist() == [[0, 1]], "of one class: where it is"
    many = torch.zeros(300, 1, 1)
    many[299] = 1
    assert best_mask(many).tolist() == [[299]]


def test_an_embedding_has_the_length_one() -> None:
    vector = unit_vector({"embedding": torch.tensor([3.0, 4.0]), "tokens": torch.zeros(5, 2)})
    assert vector.tolist() == pytest.approx([0.6, 0.8])
    assert unit_vector(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    assert unit_vector(torch.tensor([3.0, 4.0], dtype=torch.float64)).dtype == torch.float64
    assert unit_vector(torch.tensor([3.0, 4.0], dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("take", "answer", "said"),
    [
        (lambda a: best_labels(a, None), torch.zeros(1), r"output labels needs .* two classes .* gives float32 \[1\]"),
        (lambda a: best_labels(a, None), torch.zeros(2).long(), r"gives int64 \[2\]; ask for raw"),
        (lambda a: best_labels(a, None), "text", "gives a str"),
        (
            lambda a: found_boxes(a, 0.5, None),
            {"a": torch.zeros(2)},
            r"needs a model that gives boxes .* \{a: float32 \[2\]\}",
        ),
        (best_mask, torch.zeros(2, 2), r"output mask needs .* \[K, H, W\]"),
        (best_mask, [torch.zeros(2, 2)], r"gives \[float32 \[2, 2\]\]"),
        (
            unit_vector,
            {"a": torch.zeros(2), "b": torch.zeros(2)},
            "output embedding needs .* one floating-point vector",
        ),
    ],
)
def test_what_cannot_be_had_says_what_there_is(take: Callable[[Any], Any], answer: Any, said: str) -> None:
    with pytest.raises(MalformedBody, match=said):
        take(answer)
