"""WorkerConfig: environment beats YAML beats default; mistakes stop with a message naming them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from smartbatch_worker.contract.config import WorkerConfig


def test_defaults_are_the_documented_ones() -> None:
    config = WorkerConfig.resolve({}, {})
    assert (config.model, config.precision, config.load, config.micro_batch) == ("resnet18", "fp32", "lazy", "auto")
    assert config.input_shape == (3, None, None)


def test_environment_beats_yaml() -> None:
    config = WorkerConfig.resolve({"precision": "fp16", "topk": 3}, {"SMARTBATCH_PRECISION": "bf16", "HOME": "/"})
    assert (config.precision, config.topk) == ("bf16", 3)


@pytest.mark.parametrize(
    ("section", "env", "named"),
    [
        ({"precison": "fp32"}, {}, "precison"),
        ({}, {"SMARTBATCH_TOPKK": "1"}, "SMARTBATCH_TOPKK"),
        ({"precision": "int8"}, {}, "int8"),
        ({"topk": 0}, {}, "topk"),
        ({"topk": "many"}, {}, "many"),
        ({"threads": 0}, {}, "threads"),
        ({"micro_batch": -1}, {}, "micro_batch"),
        ({"input_shape": [3, 0]}, {}, "input_shape"),
        ({"device": "tpu"}, {}, "tpu"),
        ({"image_crop": 300}, {}, "image_crop"),
        ({"image_mean": [0.5]}, {}, "image_mean"),
        ({"image_std": [0, 1, 1]}, {}, "image_std"),
        ({"idle_unload_s": -1}, {}, "idle_unload_s"),
        ({}, {"SMARTBATCH_LOAD": "sometimes"}, "sometimes"),
    ],
)
def test_mistakes_are_named(section: dict[str, object], env: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        WorkerConfig.resolve(section, env)


def test_yaml_off_is_a_word_not_a_boolean() -> None:
    assert WorkerConfig.resolve({"compile": False}, {}).compile == "off"


@pytest.mark.parametrize("text", ["3,null,null", "[3, *, *]", "3,?,?"])
def test_shapes_from_the_environment(text: str) -> None:
    assert WorkerConfig.resolve({}, {"SMARTBATCH_INPUT_SHAPE": text}).input_shape == (3, None, None)


def test_control_plane_variables_are_not_handler_keys() -> None:
    names = ("RUN_DIR", "TOKEN", "CA_CERT", "CACHE_DIR")
    WorkerConfig.resolve({}, {f"SMARTBATCH_{name}": "/x" for name in names})


def test_as_dict_round_trips() -> None:
    config = WorkerConfig.resolve({"input_shape": [4], "topk": 2}, {})
    assert WorkerConfig.resolve(config.as_dict(), {}) == config


def test_every_key_is_documented_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_0-9]+)` \| `(.*?)` \|", page, re.MULTILINE))
    defaults = WorkerConfig().as_dict()
    assert list(rows) == list(defaults)
    for key, text in rows.items():
        assert WorkerConfig.resolve({key: yaml.safe_load(text)}, {}).as_dict()[key] == defaults[key]
