"""More or fewer workers, or none, or no model at all: without losing what was accepted.

TorchServe ends the workers it takes away with their batch in flight, and what waits for a version without workers, or
for one that is removed, is refused (by TorchServe's own frontend: never answered). So no worker that newcomers may
reach is taken away here:

    more workers    are added
    fewer           is a retune: a copy with fewer takes over, the old version drains and goes
    none            a copy without workers takes over: newcomers get 503 at once, the old version drains and goes
    unregister      the same, and then the copy, which has nothing to lose

A copy needs the model store, and takes over from the default version alone. For another version, or from where the
store cannot be written, workers go in a quiet moment: once all that waits is answered and every worker is free. A batch
that begins in that moment is lost, and the report says that it might be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from smartbatch.errors import DeadlineError, UsageError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.remote.management import ManagementClient, ModelStatus
from smartbatch.remote.queues import pass_queue, wait_workers
from smartbatch.retune.canary import Canary
from smartbatch.retune.model_lock import changing_models
from smartbatch.retune.run import RetuneSettings, marker_of_copy, retire, retune, sweep
from smartbatch.retune.store import RetuneStore, next_version

_QUIET_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleTarget:
    """What to change, and what it takes to do so without loss."""

    endpoints: Endpoints
    model: str
    version: str | None
    """None: the default version; to unregister: all of them."""
    model_store: Path | None
    """The server's, as seen from here; None: not known."""
    canary: Canary
    """What a copy must answer before it takes over."""
    ready_timeout_s: float = 300.0
    drain_timeout_s: float = 120.0
    say: Callable[[str], None] = lambda line: None
    """Told each step, and what may have been lost."""


def scale(target: ScaleTarget, workers: int) -> ModelStatus:
    """Have `workers` worker processes, 0 for none; what serves then, its version included, which may be another.

    Raises:
        ModelNotReadyError: no such model or version.
        DeadlineError: new workers were not READY, or old ones not done, in time.
        CanaryError: the copy with fewer workers does not answer as the model does; nothing has changed.
    """
    store = _store(target)
    with target.endpoints.management() as client:
        client.describe(target.model, target.version)  # an unknown model is said before waiting for a lock
        with _alone(target):
            current = client.describe(target.model, target.version)
            if workers >= current.min_workers:
                client.scale(target.model, workers, target.version)
                return client.wait_ready(target.model, target.ready_timeout_s, target.version) if workers else current
            if not _is_default(client, current) or store is None or not _can_copy(store, target, current):
                _go_quietly(client, target, current, workers)
                return client.describe(target.model, target.version)
            if workers == 0:
                return _replace_by_none(client, store, target, current)
        # A retune takes the lock itself.
        settings = RetuneSettings(
            model=target.model,
            workers=workers,
            ready_timeout_s=target.ready_timeout_s,
            drain_timeout_s=target.drain_timeout_s,
        )
        report = retune(target.endpoints, settings, store.folder, target.canary, target.say)
        return client.describe(target.model, report.version)


def unregister(target: ScaleTarget) -> list[str]:
    """Remove a version, or the whole model, once everything accepted for it is answered; the versions removed.

    Newcomers get 503 meanwhile and 404 afterwards.

    Raises:
        ModelNotReadyError: no such model or version.
        UsageError: the default version alone cannot go while others stay.
        DeadlineError: it still had requests after the time allowed; it stays.
    """
    store = _store(target)
    with target.endpoints.management() as client, _alone(target):
        default = client.describe(target.model)
        versions = client.versions(target.model)
        others = [v for v in versions if v.version != default.version]
        if target.version is not None:
            others = [client.describe(target.model, target.version)] if target.version != default.version else others
            if target.version == default.version and others:
                raise UsageError(
                    f"{target.model} {default.version} is the default version: name no version to remove all "
                    f"{len(versions)}, or set another as default first"
                )
        for version in others:
            _remove_quietly(client, store, target, version)
        if target.version not in (None, default.version):
            return [version.version for version in others]
        if store is None or default.min_workers == 0 or not _can_copy(store, target, default):
            _remove_quietly(client, store, target, default)
        else:
            stand_in = _replace_by_none(client, store, target, default)
            client.unregister(target.model, stand_in.version)
            store.remove(store.folder / stand_in.url)
        return [*(version.version for version in others), default.version]


def _store(target: ScaleTarget) -> RetuneStore | None:
    if target.model_store is None:
        target.say("the server's model store is not known here (--model-store): no copy can take over")
        return None
    try:
        return RetuneStore(target.model_store)
    except UsageError as e:
        target.say(f"no copy can take over: {e}")
        return None


def _can_copy(store: RetuneStore, target: ScaleTarget, version: ModelStatus) -> bool:
    try:
        store.find(version.url)
    except UsageError as e:
        target.say(f"no copy can take over: {e}")
        return False
    return True


def _alone(target: ScaleTarget) -> AbstractContextManager[None]:
    """Take turns with retunes, which would undo the change or have theirs undone."""
    return changing_models(target.endpoints, target.model_store, target.ready_timeout_s, target.say)


def _is_default(client: ManagementClient, version: ModelStatus) -> bool:
    return client.describe(version.model_name).version == version.version


def _replace_by_none(
    client: ManagementClient, store: RetuneStore, target: ScaleTarget, old: ModelStatus
) -> ModelStatus:
    """Let a copy without workers take over from the default version, which drains and goes."""
    sweep(client, store, old, target.endpoints, target.drain_timeout_s)
    version = next_version(old.version, [v.version for v in client.versions(target.model)])
    folder = store.copy(old.url, version, marker_of_copy(target.endpoints, old, store))
    try:
        client.register(
            folder.name,
            target.model,
            batch_size=old.batch_size,
            max_batch_delay_ms=old.max_batch_delay_ms,
            workers=0,
            response_timeout_s=old.response_timeout_s,
        )
        client.set_default(target.model, version)
    except BaseException:
        store.remove(folder)
        raise
    target.say(f"newcomers get 503; draining {old.version}")
    retire(client, store, old, target.drain_timeout_s)
    return client.describe(target.model, version)


def _remove_quietly(
    client: ManagementClient, store: RetuneStore | None, target: ScaleTarget, version: ModelStatus
) -> None:
    if version.min_workers > 0 or version.pending_requests > 0:
        _go_quietly(client, target, version, 0)
    client.unregister(version.model_name, version.version)
    if store is not None and store.marker(version.url) is not None:
        store.remove(store.folder / Path(version.url).name)


def _go_quietly(client: ManagementClient, target: ScaleTarget, version: ModelStatus, workers: int) -> None:
    """Take workers away in a quiet moment; what waits for a version that has none left by then gets some again.

    Raises:
        DeadlineError: there was no such moment in the time allowed; nothing has changed, or all workers are back.
    """
    name, number = version.model_name, version.version
    before = max(1, version.min_workers)
    deadline = time.monotonic() + target.drain_timeout_s
    while True:
        if version.min_workers == 0:
            client.scale(name, before, number)
            version = client.wait_ready(name, target.ready_timeout_s, number)
        while not _is_quiet(client, version, deadline):
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"{name} {number} was not free of requests once in {target.drain_timeout_s:g} s: its workers stay"
                )
            time.sleep(_QUIET_POLL_S)
            version = client.describe(name, number)
        client.scale(name, workers, number)
        version = client.describe(name, number)
        if workers > 0 or version.pending_requests == 0:
            break
    target.say(f"{name} {number} lost workers in a quiet moment: a batch that began in it got 500")


def _is_quiet(client: ManagementClient, version: ModelStatus, deadline: float) -> bool:
    if not (pass_queue(client, version, deadline) and wait_workers(client, version, deadline)):
        return False
    return client.describe(version.model_name, version.version).pending_requests == 0
