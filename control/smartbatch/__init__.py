"""SmartBatch's control plane: start, stop, watch and call TorchServe servers that batch dynamically.

The names below are the public interface; each is imported when it is first used, so that `import smartbatch` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartbatch.client import Client, Prediction
    from smartbatch.errors import SmartBatchError
    from smartbatch.management import ManagementClient, ModelStatus
    from smartbatch.server import RunningServer, start_server
    from smartbatch.settings import ServerSettings

_HOMES = {
    "Client": "client",
    "ManagementClient": "management",
    "ModelStatus": "management",
    "Prediction": "client",
    "RunningServer": "server",
    "ServerSettings": "settings",
    "SmartBatchError": "errors",
    "start_server": "server",
}

__all__ = [
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
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
