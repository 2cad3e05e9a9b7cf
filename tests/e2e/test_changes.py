"""Changes to one server's models at the same time: none is lost, and each reports its own."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from smartbatch.remote.endpoints import Endpoints
from smartbatch.retune.canary import Canary
from smartbatch.retune.run import RetuneReport, RetuneSettings, retune
from smartbatch.retune.store import RetuneStore
from smartbatch.server.running import RunningServer

TIMEOUT_S = 280.0
pytestmark = pytest.mark.timeout(1200)


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "smartbatch.cli", *args, f"--timeout={TIMEOUT_S}"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_archive: Path) -> Path:
    """`tiny.mar`, and `tiny2.mar` which is the same model's version 2.0."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "tiny.mar").symlink_to(tiny_archive)
    with zipfile.ZipFile(tiny_archive) as source, zipfile.ZipFile(folder / "tiny2.mar", "w") as second:
        for name in source.namelist():
            content = source.read(name)
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content)
                manifest["model"]["modelVersion"] = "2.0"
                content = json.dumps(manifest).encode()
            second.writestr(name, content)
    return folder


@pytest.fixture(scope="module")
def server(start: Any, store: Path) -> RunningServer:
    running: RunningServer = start(tiny_workers=1, model_store=store)
    return running


def retune_and(server: RunningServer, step: str, do: Any) -> RetuneReport:
    """Retune `tiny` to another batch size, and call `do` when it says `step`."""
    where = Endpoints(
        inference_url=server.inference_url,
        management_url=server.management_url,
        metrics_url=server.metrics_url,
        state=server.state,
    )
    with server.management() as client:
        batch_size = client.describe("tiny").batch_size + 1
    settings = RetuneSettings(model="tiny", batch_size=batch_size, ready_timeout_s=TIMEOUT_S)
    canary = Canary(inference_url=server.inference_url)
    return retune(
        where, settings, Path(server.state.model_store), canary, lambda line: do() if line.startswith(step) else None
    )


@pytest.mark.parametrize("step", ["starting", "draining"])
def test_scale_during_a_retune_is_not_lost(server: RunningServer, step: str) -> None:
    with server.management() as client:
        wanted = client.describe("tiny").min_workers + 1
        scaling: list[subprocess.Popen[str]] = []
        scale = command("scale", "tiny", f"--workers={wanted}", f"--run-dir={server.run_dir}", "--json")
        report = retune_and(
            server, step, lambda: scaling.append(subprocess.Popen(scale, stdout=subprocess.PIPE, text=True))
        )
        said, _ = scaling[0].communicate(timeout=600)
        assert scaling[0].returncode == 0
        assert json.loads(said) == {"model": "tiny", "version": report.version, "workers": wanted}
        now = client.describe("tiny")
        assert (now.version, now.min_workers, len(now.workers), now.batch_size) == (
            report.version,
            wanted,
            wanted,
            report.batch_size,
        )
        client.scale("tiny", 1)


def test_a_retune_follows_a_scale_that_took_no_lock(server: RunningServer) -> None:
    with server.management() as client:
        report = retune_and(server, "starting", lambda: client.scale("tiny", 2))
        now = client.describe("tiny")
        assert (now.version, now.min_workers, report.workers) == (report.version, 2, 2)
        client.scale("tiny", 1)


def test_register_waits_for_and_reports_the_version_it_made(server: RunningServer) -> None:
    with server.management() as client:
        first = client.describe("tiny")
        result = run("register", "tiny2.mar", "--batch-size=3", "--workers=1", f"--run-dir={server.run_dir}", "--json")
        assert result.returncode == 0, result.stderr
        second = {"model": "tiny", "version": "2.0", "batch_size": 3, "max_batch_delay_ms": 10, "workers": 1}
        assert json.loads(result.stdout) == second
        assert f"note: requests that name no version go to tiny {first.version}" in result.stderr
        assert client.describe("tiny", "2.0").is_ready
        client.unregister("tiny", "2.0")


def test_a_version_registered_again_after_a_retune_is_not_swept_away(server: RunningServer) -> None:
    with server.management() as client:
        client.register("tiny.mar", workers=1)  # 1.0, which a retune of before has replaced
        client.wait_ready("tiny", TIMEOUT_S, "1.0")
        retune_and(server, "never", lambda: None)
        assert "1.0" in {version.version for version in client.versions("tiny")}
        client.unregister("tiny", "1.0")


def test_who_waits_too_long_says_for_what(server: RunningServer, store: Path) -> None:
    args = ("tiny", "--workers=1", f"--run-dir={server.run_dir}", "--timeout=0.3")
    with RetuneStore(store).lock(0):
        result = subprocess.run(
            [sys.executable, "-m", "smartbatch.cli", "scale", *args], capture_output=True, text=True, check=False
        )
    assert result.returncode == 5
    assert f"another retune (or tune, register, scale, unregister) in {store} is still at work" in result.stderr
