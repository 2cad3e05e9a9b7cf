"""Keys of model-config.yaml: each set where it belongs, or refused with what is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from smartbatch.errors import UsageError
from smartbatch.model_config import changed_config
from smartbatch.retune.settings import RetuneSettings
from smartbatch.retune.store import RetuneStore

CONFIG = """
responseTimeout: 300
jobQueueSize: 1000
handler:
  model: model.py
  topk: 5
"""


def test_keys_go_where_they_belong() -> None:
    changed = yaml.safe_load(changed_config(CONFIG, {"jobQueueSize": "7", "topk": "3", "image_mean": "0.1,0.2,0.3"}))
    assert changed == {
        "responseTimeout": 300,
        "jobQueueSize": 7,
        "handler": {"model": "model.py", "topk": 3, "image_mean": [0.1, 0.2, 0.3]},
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nonsense": "1"}, "unknown key 'nonsense'.*accepted are"),
        ({"topk": "many"}, "topk"),
        ({"jobQueueSize": "0"}, "jobQueueSize must be a whole number from 1 on, got '0'"),
        ({"responseTimeout": "soon"}, "responseTimeout must be a whole number from 1 on, got 'soon'"),
        ({"batchSize": "4"}, "unknown key 'batchSize'"),
    ],
)
def test_what_no_key_takes_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        changed_config(CONFIG, given)


@pytest.mark.parametrize("text", ["", "[1, 2]", "minWorkers: 1", "handler: resnet18", "a: {"])
def test_a_file_of_another_handler_has_nothing_to_set(text: str) -> None:
    with pytest.raises(UsageError, match=r"model-config\.yaml (has no handler: section|cannot be read)"):
        changed_config(text, {"topk": "3"})


def test_a_copy_is_configured_and_its_original_is_not(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    for folder in (original, copy):
        folder.mkdir()
    (original / "model-config.yaml").write_text(CONFIG)
    (copy / "model-config.yaml").hardlink_to(original / "model-config.yaml")
    RetuneStore(tmp_path).configure(copy, {"topk": "3"})
    assert yaml.safe_load((copy / "model-config.yaml").read_text())["handler"]["topk"] == 3
    assert (original / "model-config.yaml").read_text() == CONFIG
    (copy / "model-config.yaml").unlink()
    with pytest.raises(UsageError, match=r"has no model-config\.yaml"):
        RetuneStore(tmp_path).configure(copy, {"topk": "3"})


def test_setting_a_key_is_a_change_by_itself() -> None:
    assert RetuneSettings(model="m", overrides={"topk": "3"}).overrides == {"topk": "3"}
    with pytest.raises(UsageError, match="--set"):
        RetuneSettings(model="m")
