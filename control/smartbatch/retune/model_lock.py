"""One change of a server's models at a time: what a retune reads when it begins must still hold when it ends.

The lock is on the model store's folder itself: it leaves no file behind, and ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smartbatch.errors import DeadlineError, UsageError
from smartbatch.remote.endpoints import Endpoints

_POLL_S = 0.1


@contextmanager
def changing_models(
    endpoints: Endpoints, model_store: Path | None, timeout_s: float, note: Callable[[str], None]
) -> Iterator[None]:
    """While the block runs, no retune, tune, register, scale or unregister from here changes this server's models.

    Args:
        endpoints: the server.
        model_store: its model store as seen from here; None takes the one its state file names.
        timeout_s: how long another change may take to finish.
        note: told where the change goes on unprotected, because the store is not known or not readable here.

    Raises:
        UsageError: `model_store` is no folder.
        DeadlineError: another change took longer than `timeout_s`.
    """
    if model_store is not None and not model_store.is_dir():
        raise UsageError(f"--model-store must be the server's model store, got {str(model_store)!r}: no such folder")
    if model_store is None and endpoints.state is not None:
        model_store = Path(endpoints.state.model_store)
    if model_store is None:
        note("a retune at the same time may undo this: --model-store, the server's own, makes it wait for its end")
        yield
        return
    try:
        handle = os.open(model_store, os.O_RDONLY)
    except OSError as e:
        note(f"a retune at the same time may undo this: its lock on {model_store} is out of reach ({e.strerror})")
        yield
        return
    try:
        _lock(handle, model_store, timeout_s)
        yield
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock on a model store.

    Raises:
        DeadlineError: another change took longer than `timeout_s`.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder, timeout_s)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"another retune (or tune, register, scale, unregister) in {folder} is still at work after "
                    f"{timeout_s:g} s"
                ) from None
            time.sleep(_POLL_S)
        else:
            return
