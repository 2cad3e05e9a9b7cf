"""Register an archive, and wait for exactly the version that this made."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from dataclasses import asdict

from smartbatch.errors import ModelNotReadyError, SmartBatchError, WorkerStartError
from smartbatch.remote.management import ManagementClient, ModelStatus
from smartbatch.server.batching import Batching


def register_version(
    client: ManagementClient,
    archive: str,
    name: str | None,
    batching: Batching,
    timeout_s: float,
    alone: AbstractContextManager[None],
) -> ModelStatus:
    """Register `archive` and wait until its workers are READY.

    Args:
        archive: its name in the model store.
        name: to serve it under; None takes the archive's own.
        timeout_s: until the workers must be READY.
        alone: held while the server's versions before and after are compared.

    Raises:
        ManagementError: TorchServe refuses it.
        WorkerStartError: its workers die while they start; it is unregistered again.
        DeadlineError: they are not READY in time; it stays registered.
    """
    with alone:
        before = {(v.model_name, v.version) for v in _all_versions(client)}
        client.register(archive, name, **asdict(batching))
        # TorchServe's answer does not say which version it read from the manifest.
        new = [v for v in _all_versions(client) if (v.model_name, v.version) not in before]
    if len(new) > 1:  # somebody without our lock registers, too
        new = [v for v in new if v.url == archive and name in (None, v.model_name)]
    if not new:
        raise ModelNotReadyError(f"{archive} was registered and is gone again: somebody unregistered it")
    if len(new) > 1:
        found = ", ".join(f"{v.model_name} {v.version}" for v in new)
        raise SmartBatchError(f"somebody else registered {archive} at the same time: see smartbatch status ({found})")
    model, version = new[0].model_name, new[0].version
    try:
        return client.wait_ready(model, timeout_s, version)
    except WorkerStartError as e:
        with suppress(SmartBatchError):
            client.unregister(model, version)
        raise WorkerStartError(f"{e}; it was unregistered again") from e


def _all_versions(client: ManagementClient) -> list[ModelStatus]:
    return [version for entry in client.models() for version in client.versions(entry.model_name)]
