"""From a command line to a load test's settings; nothing is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from smartbatch.cli import app
from smartbatch.server.batching import Batching
from smartbatch_load.load.payloads import PayloadSettings
from smartbatch_load.load.target import DEFAULT_STORE, ServerUnderTest
from smartbatch_load.study.grid import Grid
from smartbatch_load.study.run import StudySettings
from typer.testing import CliRunner

Told = Callable[..., Any]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What a command line has its load test do; ends the command there."""

    def ask(command: str, *options: str) -> Any:
        found: list[Any] = []

        def run(settings: Any, console: Any) -> None:
            found.append(settings)
            raise typer.Exit

        monkeypatch.setattr(f"smartbatch_load.{command}.run.run_{command}", run)
        result = CliRunner().invoke(app, [command, *options])
        return found[0] if found else result.output

    for name in ("MAX_BATCH_SIZE", "MAX_WAIT_TIME"):
        monkeypatch.delenv(name, raising=False)
    return ask


@pytest.mark.parametrize("command", ["stress", "capacity"])
def test_the_server_and_what_it_is_sent(told: Told, command: str, tmp_path: Path) -> None:
    options = ["--model=m", f"--model-store={tmp_path}", "--batch-size=4", "--max-delay-ms=5", "--workers=1"]
    settings = told(command, *options, "--precision=bf16", "--num-images=2", "--seed=7", f"--images={tmp_path}")
    batching = Batching(batch_size=4, max_batch_delay_ms=5, workers=1)
    assert settings.server == ServerUnderTest(model="m", store=tmp_path, batching=batching, precision="bf16")
    assert settings.payload == PayloadSettings(num_images=2, seed=7, images=tmp_path)
    settings = told(command, "--workers=1", "--url=u", "--management-url=v", "--metrics-url=w", "--body=a", "--body=b")
    batching = Batching(batch_size=32, max_batch_delay_ms=10, workers=1)
    running = ServerUnderTest(url="u", management_url="v", metrics_url="w", batching=batching)
    assert settings.server == running
    assert settings.payload == PayloadSettings(bodies=(Path("a"), Path("b")))


def test_each_point_of_a_study_is_a_server_of_its_own(told: Told) -> None:
    settings = told("study", "--batch-sizes=1,8", "--workers=2,1", "--precisions=fp32,bf16", "--formats=npy,jpeg")
    warm = Batching(batch_size=8, max_batch_delay_ms=10, workers=2)
    assert settings.server == ServerUnderTest(store=DEFAULT_STORE, batching=warm)
    assert settings.payload == PayloadSettings(formats=("npy", "jpeg"))
    last = settings.grid.settings()[-1]
    assert settings.server_for(last).precision == "bf16"
    assert settings.server_for(last).batching == Batching(batch_size=8, max_batch_delay_ms=10, workers=1)
    assert settings.load_config(last.format, 1.0).payload.formats == ("jpeg",)
    settings = told("study", "--workers=1", "--body=a.json")
    assert settings.server_for(settings.grid.settings()[0]).precision is None
    assert settings.grid.formats == ("file",)


@pytest.mark.parametrize("command", ["stress", "study", "capacity"])
def test_a_precision_that_no_worker_knows_is_refused_before_a_server_starts(told: Told, command: str) -> None:
    option = "--precisions=fp32,fp8" if command == "study" else "--precision=fp8"
    output = told(command, "--workers=1", option)
    assert output == "error: precision must be one of fp32, bf16, fp16, got 'fp8'\n"


def test_what_a_study_writes_of_itself_is_flat() -> None:
    grid = Grid(batch_sizes=[1], delays_ms=[10], workers=[1], precisions=["fp32"], formats=["npy"])
    server = ServerUnderTest(batching=grid.warm_up().batching)
    payload = PayloadSettings(formats=("npy",), images=Path("pictures"))
    found = StudySettings(out=Path(), server=server, payload=payload, grid=grid).as_dict()
    own = {"duration_s", "warmup_s", "jvm_warmup_s", "rounds", "users", "processes", "grid"}
    assert set(found) == own | {"model", "images", "bodies", "num_images", "seed"}
    assert (found["model"], found["images"], found["bodies"]) == ("resnet18", "pictures", ())
