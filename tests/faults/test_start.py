"""Workers that cannot start: the command that waits for them ends soon, with the worker's own last word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from smartbatch.errors import WorkerStartError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.retune.canary import Canary
from smartbatch.retune.run import RetuneSettings, retune
from smartbatch.server.running import RunningServer

from tests.faults.archives import derive

TIMEOUT_S = 280.0
"""For the two starts that are waited for: a starved machine takes long to import torch."""
HANDLER = """
class Handler:
    def initialize(self, context):
        {initialize}

    def handle(self, data, context):
        return data
"""
CASES: dict[str, tuple[dict[str, str | None], dict[str, Any], str]] = {
    # name: (files replaced, or None: left out; handler's configuration; the reason)
    "unknown_key": ({}, {"modle": "model.py"}, "ValueError: unknown key 'modle' in handler:"),
    "no_dependency": (
        {"smartbatch_handler.py": "import not_there_at_all\n" + HANDLER.format(initialize="pass")},
        {},
        "ModuleNotFoundError: No module named 'not_there_at_all'",
    ),
    "no_weights": ({"model.py": None}, {"load": "eager"}, "ModelUnavailable: the model cannot be loaded now: "),
    "raises": (
        {"smartbatch_handler.py": HANDLER.format(initialize='raise RuntimeError("broken on purpose: ö")')},
        {},
        "RuntimeError: broken on purpose: ö",
    ),
    "segfault": (
        {"smartbatch_handler.py": HANDLER.format(initialize="__import__('ctypes').string_at(0)")},
        {},
        "Fatal Python error: Segmentation fault",
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_archive: Path) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "tiny.mar").symlink_to(tiny_archive)
    for name, (files, section, _) in CASES.items():
        derive(tiny_archive, folder / f"{name}.mar", files, section)
    return folder


@pytest.fixture(scope="module")
def server(start: Any, store: Path) -> RunningServer:
    running: RunningServer = start(tiny_workers=1, model_store=store)
    return running


@pytest.mark.parametrize("name", ["no_dependency", "no_weights", "segfault"])
def test_register_says_why_and_leaves_nothing(server: RunningServer, name: str) -> None:
    command = [sys.executable, "-m", "smartbatch.cli", "register", f"{name}.mar", "--workers=1"]
    command += [f"--run-dir={server.run_dir}", f"--timeout={TIMEOUT_S}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert result.returncode == 4, result.stderr
    said = result.stderr.splitlines()
    assert len(said) == 1, result.stderr
    assert re.search(rf"{name} 1\.0 cannot start, its worker died \d times: {re.escape(CASES[name][2])}", said[0])
    assert f"(see {server.run_dir}/logs/model_log.log); it was unregistered again" in said[0]
    with server.management() as client:
        assert [model.model_name for model in client.models()] == ["tiny"]


def test_a_server_started_elsewhere_says_where_to_look(server: RunningServer) -> None:
    command = [sys.executable, "-m", "smartbatch.cli", "register", "raises.mar", "--workers=1"]
    command += [f"--management-url={server.management_url}", f"--timeout={TIMEOUT_S}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert result.returncode == 4, result.stderr
    assert "note: a retune at the same time may undo this: --model-store" in result.stderr
    assert re.search(r"died \d times", result.stderr)
    assert "logs/model_log.log where that TorchServe was started" in result.stderr


def test_retune_says_why_and_rolls_back(server: RunningServer, store: Path) -> None:
    where = Endpoints(
        inference_url=server.inference_url,
        management_url=server.management_url,
        metrics_url=server.metrics_url,
        state=server.state,
    )
    kept = (store / "tiny.mar").resolve()
    derive(kept, store / "spoiled.mar", *CASES["raises"][:2])
    (store / "spoiled.mar").replace(store / "tiny.mar")
    settings = RetuneSettings(model="tiny", batch_size=3, ready_timeout_s=TIMEOUT_S)
    with pytest.raises(WorkerStartError, match=r"died \d times: RuntimeError: broken on purpose: ö"):
        retune(where, settings, store, Canary(inference_url=server.inference_url))
    (store / "tiny.mar").unlink()
    (store / "tiny.mar").symlink_to(kept)
    with server.management() as client:
        assert [(v.version, v.is_ready) for v in client.versions("tiny")] == [("1.0", True)]
    assert not [path for path in store.iterdir() if path.is_dir()]


def test_serve_says_why_and_ends(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "smartbatch.cli", "serve", "--model=unknown_key", "--workers=1", "--detach"]
    command += ["--inference-port=0", "--management-port=0", "--metrics-port=0", f"--run-dir={tmp_path / 'run'}"]
    command += [f"--model-store={store}", f"--ready-timeout={TIMEOUT_S}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert result.returncode == 4, result.stderr
    last = result.stderr.splitlines()[-1]
    # Forked workers die so soon that a third may be seen together with the second.
    wanted = r"smartbatch: unknown_key 1\.0 cannot start, its worker died \d times: ValueError: unknown key"
    assert re.match(wanted, last), last
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.properties", "logs"}
    mine = str(tmp_path / "run" / "config.properties")
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if mine in (p.info["cmdline"] or ())]
