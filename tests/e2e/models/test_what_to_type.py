"""docs/models.md says what to type for each kind: each line is typed, served, and asked by sixteen at once.

What is answered is what plain PyTorch answers to that request alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.documents import ROOT
from tests.e2e.models.kinds_tried import NUM_REQUESTS, OWN_WEIGHTS, TASKS, TRIED, State
from tests.e2e.models.model_server import ModelServer, share_batches
from tests.e2e.test_serve import COMMAND


def lines() -> dict[str, str]:
    """What to type, by what one has."""
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    table = page.partition("## What can be served\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| `(smartbatch archive .+?)`(.*?) \|$", table, re.MULTILINE)
    found = {have: command for have, command, _ in rows}
    mine = found["… with weights of your own"].partition(" resnet50 ")[2]
    assert mine.startswith("--model-path ")
    return found | {
        f"{have}; {OWN_WEIGHTS}": f"{command} {mine}" for have, command, more in rows if OWN_WEIGHTS in more
    }


def tasks() -> list[str]:
    """The tasks of the second table."""
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([a-z-]+)` \| `…", page.partition("## Hugging Face\n")[2], re.MULTILINE)


def test_every_line_is_tried() -> None:
    assert lines().keys() == TRIED.keys()
    assert set(tasks()) == TASKS.keys()


@pytest.mark.slow  # ten minutes, all of them
@pytest.mark.parametrize("have", [*TRIED, *(f"{task}, of Hugging Face" for task in TASKS)])
def test_what_is_typed_is_served(models: ModelServer, tmp_path: Path, have: str) -> None:
    tried = TRIED.get(have) or TASKS[have.partition(",")[0]]
    command = lines().get(have) or lines()["a Hugging Face model"]
    folder = tmp_path / "mine"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = tried.files(folder)
    words = shlex.split(command)
    assert words[0] == "smartbatch"
    # Without network timm would try for a minute; what it had fetched before is still taken.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*COMMAND, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "model_store").glob("*.mar")
    name = f"typed_{re.sub(r'[^a-z0-9]+', '_', have.lower())}".rstrip("_")
    shutil.move(archive, models.store / f"{name}.mar")
    asked = tried.asked(made, weights_in(models.store / f"{name}.mar"))
    with models.serving(name, batch_size=NUM_REQUESTS, max_batch_delay_ms=500):
        replies = models.at_once(name, [request for request, _ in asked])
    assert len(replies) == NUM_REQUESTS
    assert share_batches(replies)
    for reply, (_, expected) in zip(replies, asked, strict=True):
        tried.compare(tried.read(reply), expected)


def weights_in(archive: Path) -> State:
    """Of an archive; none where its program or folder has them."""
    with zipfile.ZipFile(archive) as mar:
        if "weights.safetensors" not in mar.namelist():
            return {}
        state: State = safetensors.torch.load(mar.read("weights.safetensors"))
        return state
