"""Change a running model's batch size, delay or worker count without losing a request.

    copy      the same archive, its manifest one version on, as a folder in the model store
    register  with the new settings; its workers start beside the old ones
    canary    one real request, straight to the new version
    switch    it becomes the default: newcomers go there
    drain     the old version answers what it has
    remove    the old version, and its folder if an earlier retune made it

Whatever fails before the switch is rolled back; the old version never stopped serving.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.description import as_description
from smartbatch_worker.contract.environment import PREFIX

from smartbatch.errors import DeadlineError, SmartBatchError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.remote.management import ManagementClient, ModelStatus
from smartbatch.remote.queues import pass_queue, wait_workers
from smartbatch.remote.status import describe_workers
from smartbatch.retune.canary import Canary
from smartbatch.retune.settings import RetuneReport, RetuneSettings
from smartbatch.retune.store import Marker, RetuneStore, is_orphan, next_version

__all__ = ["RetuneReport", "RetuneSettings", "marker_of_copy", "retire", "retune", "sweep"]

_SETTLE_S = 0.2
"""A request that was being given to the old version at the switch is in its queue by then."""


def retune(
    endpoints: Endpoints,
    settings: RetuneSettings,
    model_store: Path,
    canary: Canary,
    say: Callable[[str], None] = lambda line: None,
) -> RetuneReport:
    """Replace the default version of a model by the same archive with other settings.

    Args:
        endpoints: the server.
        model_store: its model store, as seen from here.
        canary: what the new version must answer first.
        say: told each step.

    Raises:
        UsageError: the store cannot be written, or lacks the archive.
        ModelNotReadyError: no such model.
        DeadlineError: the new version was not READY in time (rolled back), or the old one did not finish (both stay).
        CanaryError: the new version does not answer as the old one (rolled back).
        WorkerStartError: the new version's workers die while they start (rolled back).
    """
    start = time.monotonic()
    store = RetuneStore(model_store)
    with endpoints.management() as client:
        client.describe(settings.model)  # an unknown model is said before waiting for a lock
        with store.lock(settings.lock_timeout_s):
            old = client.describe(settings.model)
            sweep(client, store, old, endpoints, settings.drain_timeout_s)
            batch_size = settings.batch_size or old.batch_size
            delay_ms = settings.max_batch_delay_ms or max(1, old.max_batch_delay_ms)
            workers = settings.workers or max(1, old.min_workers)

            def report(version: str, canary_done: str, ready_s: float, *, changed: bool = True) -> RetuneReport:
                return RetuneReport(
                    model=settings.model,
                    version=version,
                    batch_size=batch_size,
                    max_batch_delay_ms=delay_ms,
                    workers=workers,
                    old_version=old.version,
                    changed=changed,
                    canary=canary_done,
                    seconds=time.monotonic() - start,
                    ready_seconds=ready_s,
                )

            same = (batch_size, delay_ms, workers) == (old.batch_size, old.max_batch_delay_ms, old.min_workers)
            if same and not settings.measure_again and not settings.overrides:
                return report(old.version, "", 0.0, changed=False)
            version = next_version(old.version, [v.version for v in client.versions(settings.model)])
            say(f"copying {old.url} as version {version}")
            folder = store.copy(old.url, version, marker_of_copy(endpoints, old, store))
            try:
                if settings.measure_again:
                    store.forget_measurements(folder)
                if settings.overrides:
                    store.configure(folder, settings.overrides)
                say(f"starting {workers} worker(s) of {version}")
                client.register(
                    folder.name,
                    settings.model,
                    batch_size=batch_size,
                    max_batch_delay_ms=delay_ms,
                    workers=workers,
                    response_timeout_s=int(settings.overrides.get("responseTimeout", old.response_timeout_s)),
                )
                new = client.wait_ready(settings.model, settings.ready_timeout_s, version)
                done = canary.check(client, new, old)
                for line in _beaten(client, new, settings.overrides):
                    say(line)
                workers = _follow(client, settings, old, workers, version)
                say(f"{done}; switching")
                client.set_default(settings.model, version)
            except BaseException:
                _roll_back(client, store, settings.model, version, folder)
                raise
            ready_s = time.monotonic() - start
            say(f"draining {old.version}")
            retire(client, store, old, settings.drain_timeout_s)
            store.has_replaced(folder)
            return report(version, done, ready_s)


def marker_of_copy(endpoints: Endpoints, old: ModelStatus, store: RetuneStore) -> Marker:
    """What a copy that takes over from `old` says of itself."""
    earlier = store.marker(old.url)
    return Marker(
        model=old.model_name,
        management_url=endpoints.management_url,
        origin=earlier.origin if earlier else old.url,
        replaces=old.version,
        host=socket.gethostname(),
        server_pid=endpoints.state.pid if endpoints.state else None,
        server_birth=endpoints.state.pid_birth if endpoints.state else None,
    )


def _follow(client: ManagementClient, settings: RetuneSettings, old: ModelStatus, workers: int, version: str) -> int:
    """Take over what others did to the old version since it was read: not everybody who scales takes our lock.

    Returns:
        The workers that the new version has.

    Raises:
        SmartBatchError: another version has become the default.
    """
    now = client.describe(settings.model)
    if now.version != old.version:
        raise SmartBatchError(f"{settings.model} {now.version} became the default meanwhile: nothing was changed")
    if settings.workers is not None or now.min_workers in (old.min_workers, 0):
        return workers
    client.scale(settings.model, now.min_workers, version)
    client.wait_ready(settings.model, settings.ready_timeout_s, version)
    return now.min_workers


def _beaten(client: ManagementClient, new: ModelStatus, overrides: Mapping[str, str]) -> Iterator[str]:
    """A line for each key that was set and that the server's environment beats."""
    if not overrides:
        return
    worker = next(iter(describe_workers(client, new).values()), None)
    for key, text in overrides.items():
        if worker is None or key not in worker["config"]:
            continue
        config = WorkerConfig.resolve({key: text}, {}).as_dict()[key]
        found = worker["config"][key]
        if json.dumps(config) != json.dumps(found):
            yield f"note: {PREFIX}{key.upper()} in the server's environment beats {key}={text}: it is {found}"


def _roll_back(client: ManagementClient, store: RetuneStore, model: str, version: str, folder: Path) -> None:
    """Remove the new version, unless it is the default already."""
    with suppress(SmartBatchError):
        if client.describe(model).version == version:
            return
    with suppress(SmartBatchError):
        client.unregister(model, version)
    store.remove(folder)


def retire(client: ManagementClient, store: RetuneStore, old: ModelStatus, timeout_s: float) -> None:
    """Wait until a version that gets no more requests has answered all it had, then remove it.

    Raises:
        DeadlineError: it has not; it stays, and the next retune removes it.
    """
    deadline = time.monotonic() + timeout_s
    time.sleep(_SETTLE_S)
    while True:
        old = client.describe(old.model_name, old.version)
        finished = pass_queue(client, old, deadline) and wait_workers(client, old, deadline)
        old = client.describe(old.model_name, old.version)
        if old.pending_requests == 0 and (finished or old.min_workers == 0):
            break
        if not finished and not _describes_itself(client, old):
            # A handler that does not say when it is free: its last batch ends within the response timeout or is killed.
            time.sleep(max(0.0, min(old.response_timeout_s, deadline - time.monotonic())))
            break
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"{old.model_name} {old.version} still has requests after {timeout_s:g} s and was kept; "
                "the new version serves. The next retune removes it"
            )
    client.unregister(old.model_name, old.version)
    if store.marker(old.url) is not None:
        store.remove(store.folder / Path(old.url).name)


def _describes_itself(client: ManagementClient, version: ModelStatus) -> bool:
    try:
        described = client.describe(version.model_name, version.version, customized=True).customized
    except SmartBatchError:
        return False
    return as_description(described) is not None


def sweep(
    client: ManagementClient, store: RetuneStore, default: ModelStatus, endpoints: Endpoints, timeout_s: float
) -> None:
    """Remove what a retune that was killed left: versions nobody is sent to, folders nobody serves."""
    versions = client.versions(default.model_name)
    serving = store.marker(default.url)
    for version in versions:
        replaced = serving is not None and serving.replaces == version.version
        if version.version != default.version and (replaced or store.marker(version.url) is not None):
            retire(client, store, version, timeout_s)
    used = {Path(version.url).name for version in versions}
    for folder, marker in list(store.copies()):
        mine = (marker.model, marker.management_url) == (default.model_name, endpoints.management_url)
        if (mine and folder.name not in used) or is_orphan(marker):
            store.remove(folder)
