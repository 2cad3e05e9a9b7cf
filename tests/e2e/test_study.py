"""`smartbatch study` on the exact-answer model: every point measured, each with its own batch size."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import golden


@pytest.fixture(autouse=True)
def forwards_that_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the load takes no more of the processor than it must; measuring such a forward would tell nothing."""
    for name, value in {"TINY_SLEEP_S": "0.02", "SMARTBATCH_MICRO_BATCH": "8", "SMARTBATCH_COMPILE": "off"}.items():
        monkeypatch.setenv(name, value)


def test_a_study_of_two_batch_sizes(tmp_path: Path, model_store: Path) -> None:
    """One round: how several are interleaved and summed up, tests/unit/loadtest/test_study.py tests."""
    body = tmp_path / "line.json"
    body.write_text('{"data": [1, 2, 3, 4]}', encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["study", "--model", "tiny", "--model-store", str(model_store), "--body", str(body)]
    arguments += ["--batch-sizes", "1,8", "--workers", "1", "--duration", "1s", "--rounds", "1", "--users", "16"]
    arguments += ["--warmup", "0.5s", "--jvm-warmup", "1s", "--out", str(out)]
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert result["ended"] == "completed"
    one, eight = result["rows"]
    assert (one["batch_size"], eight["batch_size"]) == (1, 8)
    assert one["avg_batch_size"] == 1
    assert 1 < eight["avg_batch_size"] <= 8
    assert one["failures"] == eight["failures"] == 0
    assert [(r["number"], r["setting"]["batch_size"]) for r in result["rounds"]] == [(1, 1), (1, 8)]
    for row in result["rows"]:
        assert row["rps_min"] <= row["rps"] <= row["rps_max"]
        assert 0 < row["p50_s"] <= row["p95_s"]
        assert row["discrepancy"] <= 0.01
    text = (out / "study.md").read_text(encoding="utf-8")
    assert text.count("| 1 |") >= 1
    assert "★" in text
    assert (out / "study.csv").read_text(encoding="utf-8").count("\n") == 3
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    golden.check("study", {"files": golden.files_in(out), "keys": golden.keys_of(result)})
    left = [p for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or [])]
    assert left == []


@pytest.mark.slow  # what ends a run is the stress test's, whose Ctrl-C is tested in test_stress.py
def test_ctrl_c_keeps_the_points_so_far(tmp_path: Path, model_store: Path) -> None:
    body = tmp_path / "line.json"
    body.write_text('{"data": [1, 2, 3, 4]}', encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["study", "--model", "tiny", "--model-store", str(model_store), "--body", str(body)]
    arguments += ["--batch-sizes", "1,2,4,8,16", "--workers", "1", "--duration", "1s", "--rounds", "50"]
    arguments += ["--users", "4", "--warmup", "0", "--jvm-warmup", "0", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.cli", *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 180
    while not (out / "study.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    result = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert result["ended"] == "interrupted"
    assert 1 <= len(result["rows"]) <= 5
    assert "interrupted by SIGINT" in (out / "study.md").read_text(encoding="utf-8")
    left = [p for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or [])]
    assert left == []
