"""TorchServe's frontend as it came: on request, and wherever the jar or a class it knows is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
from smartbatch.errors import NotRunningError, UsageError
from smartbatch.remote.management import ManagementClient
from smartbatch.server.jvm.command import java_home
from smartbatch.server.ports import free_ports

from tests.conftest import StartServer

ROOT = Path(__file__).parents[3]
BODY = {"data": [1, 2, 3, 4]}
Plain = Callable[..., "tuple[subprocess.Popen[bytes], str]"]


@pytest.fixture
def plain(tmp_path: Path, model_store: Path) -> Iterator[Plain]:
    """Start plain `torchserve` in a folder of its own, by the project's config.properties with other ports."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(name: str, *, jar: bool, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[bytes], str]:
        folder = tmp_path / name
        (folder / "tmp").mkdir(parents=True)
        (folder / "config").symlink_to(ROOT / "config")
        if jar:
            (folder / "frontend").symlink_to(ROOT / "frontend")
        ports = iter(free_ports(6))
        config = (ROOT / "config.properties").read_text(encoding="utf-8")
        config = re.sub(r"(?<=//127\.0\.0\.1:)\d+", lambda _: str(next(ports)), config)
        config += f"\ngrpc_inference_port={next(ports)}\ngrpc_management_port={next(ports)}\n"
        config += f"initial_worker_port={next(ports)}\n"
        (folder / "config.properties").write_text(config, encoding="utf-8")
        java = java_home()
        variables = {**os.environ, **(env or {}), "JAVA_HOME": str(java), "TMPDIR": str(folder / "tmp")}
        variables["PATH"] = f"{java / 'bin'}{os.pathsep}{variables['PATH']}"
        launcher = Path(sys.executable).with_name("torchserve")
        command = [str(launcher), "--start", "--foreground", "--ncs", f"--model-store={model_store}"]
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(
                [*command, f"--ts-config={folder / 'config.properties'}"],
                cwd=folder,
                env=variables,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        found = re.search(r"^management_address=(.+)$", config, re.MULTILINE)
        assert found is not None
        return process, found[1]

    yield start_one
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):  # the launcher waits for Java
                child.kill()
        process.wait()


def wait_listens(process: subprocess.Popen[bytes], url: str) -> str:
    deadline = time.monotonic() + 120
    while True:
        try:
            with ManagementClient(url) as client:
                assert client.models() == []
                return str(client.frontend()["frontend"])
        except NotRunningError:
            assert process.poll() is None, "torchserve ended"
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_plain_torchserve_starts_with_and_without_the_jar(plain: Plain, tmp_path: Path) -> None:
    mended = plain("checkout", jar=True, env={"SMARTBATCH_FRONTEND": "mended"})
    elsewhere = plain("elsewhere", jar=False)
    mistyped, _ = plain("mistyped", jar=True, env={"SMARTBATCH_FRONTEND": "mendd"})
    assert wait_listens(*mended) == "mended"
    assert wait_listens(*elsewhere) == "stock"
    mistyped.wait(120)  # the launcher says 0 whatever Java said
    assert b"SMARTBATCH_FRONTEND must be stock or mended, got 'mendd'" in (tmp_path / "mistyped" / "said").read_bytes()


def test_stock_serves_and_says_so(start: StartServer) -> None:
    server = start(tiny_workers=1, env={"SMARTBATCH_FRONTEND": "stock"})
    answer = requests.post(f"{server.inference_url}/predictions/tiny", json=BODY, timeout=60)
    assert answer.json() == {"result": [3, 5, 7, 9]}
    assert requests.get(f"{server.inference_url}/readyz", timeout=60).status_code == 404
    with server.management() as client:
        assert client.frontend() == {"frontend": "stock"}
    assert "SMARTBATCH_FRONTEND=stock" in (server.run_dir / "logs" / "ts_log.log").read_text()


def test_a_mistyped_mode_is_refused_before_java_starts(start: StartServer) -> None:
    with pytest.raises(UsageError, match="SMARTBATCH_FRONTEND must be mended or stock; got 'mendd'"):
        start(env={"SMARTBATCH_FRONTEND": "mendd"})
