"""SmartBatch's control plane: start, stop, watch and call TorchServe servers that batch dynamically.

The names below are the public interface; each is imported when it is first used, so that `import smartbatch` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartbatch.client import AsyncClient, Client, Prediction
    from smartbatch.errors import SmartBatchError
    from smartbatch.remote.management import ManagementClient, ModelStatus
    from smartbatch.server.running import RunningServer
    from smartbatch.server.settings import ServerSettings
    from smartbatch.server.starting import start_server

    __version__: str

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "ManagementClient": "remote.management",
    "ModelStatus": "remote.management",
    "Prediction": "client",
    "RunningServer": "server.running",
    "ServerSettings": "server.settings",
    "SmartBatchError": "errors",
    "start_server": "server.starting",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name == "__version__":  # of what is installed; pyproject.toml alone says it
        return importlib.import_module("importlib.metadata").version("smartbatch")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
