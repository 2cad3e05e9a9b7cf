"""One server for the faults that leave it standing, a model that misbehaves on request, and the figures measured.

The figures go to $FAULT_REPORT (default: `faults.json` in pytest's temporary folder).
"""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server

from tests.faults.serving import Service

MODEL = Path(__file__).parent / "models" / "hostile.py"
RESPONSE_TIMEOUT_S = 60  # of a batch; generous, since a busy machine may take seconds to load a model
SHORT_TIMEOUT_S = 10
"""Of the archive `impatient`."""
QUEUE_SIZE = 24
"""Of the archive `small_queue`."""

Serve = Callable[..., AbstractContextManager[Service]]


@pytest.fixture(scope="session")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the tests measure, by fault."""
    found: dict[str, Any] = {}
    yield found
    default = tmp_path_factory.getbasetemp() / "faults.json"
    path = Path(os.environ.get("FAULT_REPORT", default))
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\nfault figures: {path}")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hostile.mar`, and `small_queue.mar` and `impatient.mar` of the same model."""
    folder = tmp_path_factory.mktemp("store")
    weights = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file({"weight": torch.tensor(2.0), "bias": torch.tensor(1.0)}, weights)
    settings = ArchiveSettings(
        model_file=MODEL,
        model_path=weights,
        name="hostile",
        input_shape="4",
        overrides={"responseTimeout": str(RESPONSE_TIMEOUT_S), "micro_batch": "32", "threads": "1"},
        output=folder,
    )
    archive = build_archive(settings)
    copy_archive(archive, folder / "small_queue.mar", jobQueueSize=QUEUE_SIZE)
    copy_archive(archive, folder / "impatient.mar", responseTimeout=SHORT_TIMEOUT_S)
    return folder


def copy_archive(source: Path, target: Path, **frontend_keys: object) -> None:
    """The same archive with other frontend keys in its model-config.yaml."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            body = old.read(entry)
            if entry.filename == "model-config.yaml":
                body = yaml.safe_dump({**yaml.safe_load(body), **frontend_keys}).encode()
            new.writestr(entry, body)


@pytest.fixture(scope="session")
def start_faulty(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start a server of the test's own; all are ended with the session, by pid."""
    started: list[RunningServer] = []

    def start(run_dir: Path | None = None, **env: str) -> RunningServer:
        settings = ServerSettings(
            model_store=store,
            run_dir=run_dir or tmp_path_factory.mktemp("run"),
            inference_port=0,
            management_port=0,
            metrics_port=0,
            env=env,
        )
        started.append(start_server(settings))
        return started[-1]

    yield start
    for server in started:
        server.stop(grace_s=0)


@pytest.fixture(scope="session")
def forwards_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grows by a byte with every forward."""
    path = tmp_path_factory.mktemp("forwards") / "count"
    path.touch()
    return path


@pytest.fixture(scope="session")
def shared_server(start_faulty: Callable[..., RunningServer], forwards_file: Path) -> RunningServer:
    """Survives every test that uses it."""
    return start_faulty(FORWARDS_FILE=str(forwards_file))


@pytest.fixture(scope="session")
def serve(shared_server: RunningServer) -> Serve:
    """Register the hostile model under a name of the test's own for the length of a block."""
    names = (f"m{number}" for number in itertools.count())

    @contextmanager
    def one(
        *,
        workers: int = 1,
        batch_size: int = 8,
        max_batch_delay_ms: int = 20,
        archive: str = "hostile",
        warm: bool = True,
    ) -> Iterator[Service]:
        name = next(names)
        with shared_server.management() as client:
            client.register(
                f"{archive}.mar", name, batch_size=batch_size, max_batch_delay_ms=max_batch_delay_ms, workers=workers
            )
            client.wait_ready(name, 120)
            service = Service(shared_server, name)
            if warm:
                service.load_all_workers()
            yield service
            client.unregister(name)

    return one
