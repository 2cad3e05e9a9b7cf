"""Batches that a model of named inputs is measured and compared with."""

from __future__ import annotations

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import Samples
from smartbatch_worker.flow import examples

IDS = {"dtype": "int64", "shape": ["L"], "pad": 0}


def config(**keys: object) -> WorkerConfig:
    return WorkerConfig.resolve({"model": "config.json", "inputs": {"ids": IDS}, **keys}, {})


@pytest.mark.parametrize(
    ("keys", "lengths", "compared"),
    [
        ({}, [32, 128], [(3, 32), (1, 16)]),
        ({"lengths": {"L": [4, 9, 20, 40]}}, [4, 20, 40], [(3, 4), (1, 4)]),
        ({"task": "text-classification"}, [32, 128], [(3, 32), (1, 16), (1, 512)]),
        ({"task": "text-classification", "max_length": 8192}, [32, 128], [(3, 32), (1, 16), (1, 512)]),
        ({"task": "text-classification", "max_length": 120}, [32, 120], [(3, 32), (1, 16), (1, 120)]),
        ({"task": "text-classification", "max_length": 5}, [5], [(3, 5), (1, 2), (1, 5)]),
    ],
)
def test_no_text_is_longer_than_the_model_takes(
    keys: dict[str, object], lengths: list[int], compared: list[tuple[int, int]]
) -> None:
    found = examples.samples(config(**keys), [])
    assert [sample.batch(4)["ids"].shape for sample in found.measured] == [(4, length) for length in lengths]
    assert [tuple(batch["ids"].shape) for batch in found.compared] == compared


def test_one_of_those_that_are_compared_is_filled_up() -> None:
    (uneven, _) = examples.samples(config(), [{"ids": torch.tensor([7, 8, 9])}]).compared
    assert uneven["ids"][1].tolist() == [7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 9, 7] + 16 * [0]


def test_without_an_example_nothing_is_made_up_of_a_size_that_nobody_knows() -> None:
    unknown = WorkerConfig.resolve({"model": "model.py", "inputs": {"x": {"shape": ["K"]}}}, {})
    assert examples.samples(unknown, []) == Samples()
