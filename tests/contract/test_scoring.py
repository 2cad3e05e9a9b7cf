"""The archive's handler in a process that scores, without Ray: parts in, files out, each row with its own answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from smartbatch_worker.contract.headers import OUTPUT

from tests.faults.archives import derive
from tests.numbered import numbered

NUM_FILES = 11

SCORE = """
import json, sys
from pathlib import Path
import smartbatch_worker.contract.headers  # what a process may have imported of an installed data plane
from smartbatch.scoring.actor import PartScorer, Task
from smartbatch.scoring.inputs import InputSettings, plan

archive, source, out, headers = sys.argv[1:]
planned = plan(InputSettings(given=source), 4, out)
task = Task(input=planned.settings, out=out, headers=json.loads(headers), batch_size=3, cpus=1, has_gpu=False,
            environment={})
said = sys.stderr
scorer = PartScorer(task, Path(archive).read_bytes())
print("a metric, or what a model prints")
import smartbatch_worker, smartbatch_handler
homes = [module.__file__ for module in (smartbatch_worker, smartbatch_handler)]
done = [scorer.do(part) for part in planned.parts]
done.append(scorer.do(planned.parts[0]))
print(json.dumps({"homes": homes, "done": done}), file=said)
"""


def score(archive: Path, source: Path, out: Path, headers: dict[str, str] | None = None) -> Any:
    out.mkdir()
    command = [sys.executable, "-c", SCORE, str(archive), str(source), str(out), json.dumps(headers or {})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return json.loads(done.stderr.splitlines()[-1])


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """File n holds n, n + 1, n + 2, n + 3; two are none of that."""
    folder = numbered(tmp_path / "in", NUM_FILES)
    (folder / "05.npy").write_bytes(b"no array")
    np.save(folder / "07.npy", np.zeros(5, np.float32))
    return folder


def test_the_archives_own_handler_answers_each_row(tiny_archive: Path, inputs: Path, tmp_path: Path) -> None:
    found = score(tiny_archive, inputs, tmp_path / "out", {OUTPUT: "raw"})
    assert all("smartbatch-score-" in home for home in found["homes"]), found["homes"]
    *parts, again = found["done"]
    assert [(part["rows"], part["failures"]) for part in parts] == [
        (4, {}),
        (4, {"415 unknown_format": 1, "422 wrong_shape": 1}),
        (3, {}),
    ]
    assert again["rows"] == 4, "a part that is there is not done again"
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == NUM_FILES
    for n, row in enumerate(rows):
        assert Path(row["input"]).name == f"{n:02}.npy"
        assert (row["part"], row["row"]) == divmod(n, 4)
        if n not in (5, 7):
            assert json.loads(row["answer"]) == {"result": [2.0 * x + 1 for x in range(n, n + 4)]}


@pytest.mark.slow  # another process that imports torch
def test_a_model_that_does_not_start_is_said_once_and_fatal(tiny_archive: Path, inputs: Path, tmp_path: Path) -> None:
    source = (
        "import torch\nclass Line(torch.nn.Module):\n    def __init__(self):\n        raise OSError('no such disk')\n"
    )
    derive(tiny_archive, tmp_path / "broken.mar", {"model.py": source}, {})
    for done in score(tmp_path / "broken.mar", inputs, tmp_path / "out")["done"]:
        assert done["is_fatal"]
        assert "no such disk" in done["error"]
    assert not list((tmp_path / "out").iterdir())
