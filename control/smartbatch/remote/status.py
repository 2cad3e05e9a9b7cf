"""What a server is doing: its process, models, versions, workers, and what each worker says about itself."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from smartbatch_worker.contract.description import Description, as_description

from smartbatch.errors import DeadlineError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.remote.management import ManagementClient, ManagementError, ModelStatus
from smartbatch.remote.process_identity import age_s

_DESCRIBE_TIMEOUT_S = 5.0
_MEASURING_POLL_S = 0.25


def collect_status(endpoints: Endpoints) -> dict[str, Any]:
    """Everything `smartbatch status` shows, as plain data.

    Raises:
        NotRunningError: when no server answers.
    """
    with endpoints.management() as client:
        models = []
        for entry in client.models():
            default = client.describe(entry.model_name).version
            for version in client.versions(entry.model_name):
                models.append(_version(client, version, is_default=version.version == default))  # noqa: PERF401
        frontend = client.frontend()
    return {"server": _server(endpoints), "frontend": frontend, "models": models}


def _server(endpoints: Endpoints) -> dict[str, Any]:
    addresses = {
        "inference_url": endpoints.inference_url,
        "management_url": endpoints.management_url,
        "metrics_url": endpoints.metrics_url,
    }
    state = endpoints.state
    if state is None:
        return {"pid": None, "uptime_s": None, **addresses}
    return {
        "pid": state.pid,
        "supervisor_pid": state.supervisor_pid,
        "uptime_s": None if (age := age_s(state.pid)) is None else round(age, 1),
        "run_dir": state.run_dir,
        "token_auth": state.token_auth,
        **addresses,
    }


def _version(client: ManagementClient, status: ModelStatus, *, is_default: bool) -> dict[str, Any]:
    handlers = describe_workers(client, status)
    plain = asdict(status)
    plain.pop("customized")
    for worker in plain["workers"]:
        described = worker["handler"] = handlers.get(worker["pid"])
        example = None if described is None else described.get("example")
        if described is not None and example is not None:
            # A status is read by people and kept by scripts: that there is one, and of what, not its 64 KiB.
            worker["handler"] = {**described, "example": {**example, "body": None}}
    return {**plain, "default": is_default, "ready": status.is_ready}


def describe_workers(
    client: ManagementClient, status: ModelStatus, timeout_s: float = _DESCRIBE_TIMEOUT_S
) -> dict[int, Description]:
    """What the handler says in each READY worker, by worker pid.

    TorchServe gives a describe request to whichever worker is free, so it is asked until each has answered. A worker
    that is busy for `timeout_s`, or whose handler does not describe itself, is missing from the answer.
    """
    missing = {worker.pid for worker in status.workers if worker.status == "READY"}
    found: dict[int, Description] = {}
    deadline = time.monotonic() + timeout_s
    tries = 4 * len(missing)
    while missing and tries and (left_s := deadline - time.monotonic()) > 0:
        tries -= 1
        try:
            described = client.describe(status.model_name, status.version, customized=True, timeout_s=left_s)
        except (DeadlineError, ManagementError):
            break
        worker = as_description(described.customized)
        if worker is None:
            break
        found[worker["pid"]] = worker
        missing.discard(worker["pid"])
    return found


def wait_measured(client: ManagementClient, status: ModelStatus, timeout_s: float) -> bool:
    """Wait until no worker that has loaded the model is still measuring how it computes fastest.

    Returns:
        Whether that is so; after `timeout_s` it may not be. A handler that does not say measures nothing.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(_MEASURING_POLL_S, deadline - time.monotonic())
        if not any(worker.get("measuring") for worker in describe_workers(client, status, left_s).values()):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_MEASURING_POLL_S)
