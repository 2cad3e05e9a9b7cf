"""The one server of this folder: `smartbatch serve` of four models; each test file registers and removes its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import fork_server_environment
from tests.e2e.models import brought_along
from tests.e2e.models.model_server import ModelServer
from tests.e2e.serve_process import served


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A server of what `smartbatch serve` is told to serve, with a picture's model among it."""
    folder = tmp_path_factory.mktemp("models")
    server = ModelServer(folder / "store")
    brought_along.build(server, folder)
    env = fork_server_environment()
    with served(server.store, folder, env=env, models=("sum", "old", "masks", "shades")) as running:
        server.served = running
        yield server
