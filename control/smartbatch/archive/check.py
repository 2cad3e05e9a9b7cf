"""Prove that a staged archive loads and answers, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

from smartbatch_worker.contract import environment
from smartbatch_worker.contract.open_inference import TENSORS_FILE

from smartbatch.archive.settings import ArchiveError
from smartbatch.archive.stage import Staged
from smartbatch.installation import CONFIG_FILE, files
from smartbatch.server.forking import choice

_JOB_FILE = "job.json"
_MAX_STDERR_LINES = 20


def check(staged: Staged, report: Callable[[str], None]) -> None:
    """Convert the weights, load the model as a worker would, run it, and record what that showed.

    A model.py and a handler are the user's code: they run in a child process, on the staged files alone.

    Raises:
        ArchiveError: what failed, in the child's words; files are named as the user named them.
    """
    answer = _run_child(staged)
    if "error" in answer:
        message = answer["error"]
        for name, origin in staged.origins.items():
            message = message.replace(str(staged.folder / name), str(origin))
        raise ArchiveError(message)
    for key, value in answer["found"].items():
        staged.section[key] = value
    staged.write_config()
    if TENSORS_FILE not in staged.origins:  # one of the user's own tells better what a handler of theirs makes
        (staged.folder / TENSORS_FILE).write_text(json.dumps(answer["tensors"]) + "\n", encoding="utf-8")
    for line in answer["notes"]:
        report(line)


def job_of(staged: Staged) -> dict[str, Any]:
    """What the child is told, as plain JSON values."""
    return {
        "folder": str(staged.folder),
        "entry_point": staged.entry_point,
        "weights_from": str(staged.weights_from.resolve()) if staged.weights_from else None,
        "weights_name": str(staged.weights_from) if staged.weights_from else None,
        "random_weights": staged.random_weights,
        "section": staged.section,
        "num_labels": None if staged.labels is None else len(staged.labels),
        "name": staged.title,
        "frontend": staged.frontend,
        "example": None if staged.example is None else str(staged.example.resolve()),
        "example_name": None if staged.example is None else str(staged.example),
    }


def _run_child(staged: Staged) -> dict[str, Any]:
    # The settings under test are the archive's, not this shell's; and a check leaves no bytecode behind.
    kept = {key for key in os.environ if not key.startswith(environment.PREFIX)} | {environment.CACHE_DIR}
    env = {key: value for key, value in os.environ.items() if key in kept}
    # How large an answer may be is what `smartbatch serve` allows, wherever the archive is built.
    env = {"TS_CONFIG_FILE": str(files() / CONFIG_FILE)} | choice.ENVIRONMENT | env
    env |= {"PYTHONPATH": str(staged.folder), "PYTHONDONTWRITEBYTECODE": "1"}
    child = subprocess.run(
        [*choice.python_command(os.environ), "-m", "smartbatch.archive.probe"],
        input=json.dumps(job_of(staged)),
        capture_output=True,
        encoding="utf-8",
        errors="replace",  # the model's code may print anything
        env=env,
        cwd=staged.folder,
        check=False,
    )
    if child.returncode != 0 or not child.stdout:
        tail = "\n".join(child.stderr.splitlines()[-_MAX_STDERR_LINES:])
        raise ArchiveError(f"the check of {staged.title} ended with exit code {child.returncode}:\n{tail}")
    answer = json.loads(child.stdout)
    assert isinstance(answer, dict)
    return answer
