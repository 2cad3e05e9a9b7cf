"""The unit that is shipped: systemd takes it, and it leaves our stop the time that it may take."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from smartbatch.commands.serve import serve
from smartbatch.installation import files
from smartbatch.server.stopping.stop import MARGIN_S

UNIT = files() / "deploy" / "systemd" / "smartbatch.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, delimiters="=", strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_it(tmp_path: Path) -> None:
    installed = tmp_path / "smartbatch"
    (installed / ".venv" / "bin").mkdir(parents=True)
    command = installed / ".venv" / "bin" / "smartbatch"
    command.touch(mode=0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/smartbatch", str(installed)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_its_flags_are_ours_and_the_stop_ends_before_sigkill(service: configparser.SectionProxy) -> None:
    command = shlex.split(service["ExecStart"])
    assert command[:2] == ["/opt/smartbatch/.venv/bin/smartbatch", "serve"]
    app = typer.Typer()
    app.command()(serve)
    parsed = typer.main.get_command(app).make_context("serve", command[2:], resilient_parsing=False).params
    assert parsed["run_dir"].parent == parsed["model_store"].parent == Path("/var/lib") / "smartbatch"
    assert (service["KillMode"], service["KillSignal"]) == ("mixed", "SIGTERM")
    assert int(service["TimeoutStopSec"]) >= parsed["grace"] + MARGIN_S
