"""Empty a server before it is stopped: TorchServe itself resets every connection it has.

    close the door      newcomers are refused by the kernel                         (where it lends us the socket)
    lend a hand         a model scaled to no worker while requests waited for it gets one, for them
    pass the queues     a describe request behind everything accepted so far comes back: all of that has left the queue
    mark                from now on the handler answers 503, Retry-After: 1, Connection: close, without computing
    wait for workers    every worker answers a describe request: none still computes what was accepted
    wait for silence    no connection owes an answer or carries data
    hang up             a client that was slow to send its next request finds its connection ended, not reset

The mark is what ends clients that keep sending on open connections: each gets one refusal, loses its connection by it,
and finds the door closed. All of it together takes at most the grace; what it cuts off is said in the report, and so
is who will never be answered: TorchServe forgets what waits in the queue of a version that is removed.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from smartbatch.errors import DeadlineError, ModelNotReadyError, SmartBatchError
from smartbatch.remote.management import ManagementClient, ManagementError, ModelStatus
from smartbatch.remote.state import DRAIN_FILE, ServerState
from smartbatch.remote.status import describe_workers
from smartbatch.server.stopping.answered import all_were_answered
from smartbatch.server.stopping.sockets import BorrowError, activities, hang_up, stop_listening

_POLL_S = 0.02
# A batch that TorchServe has formed but not yet handed to its worker is still to be computed after the mark.
_MARK_DELAY_S = 0.1
# The share of the grace kept for refusing what is left once the queues were given their time, and its upper limit.
_REFUSAL_SHARE, _REFUSAL_MAX_S = 0.25, 5.0
# Longer than a client that has its answer needs to send its next request, on a machine that is busy.
_SILENCE_MS = 500
_BLIND_SILENCE_S = 0.5
# With all workers free, whoever has waited for so long is waiting in vain: half a request, or one that was forgotten.
_VAIN_WAIT_MS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class DrainReport:
    """How a drain went."""

    complete: bool
    """Everything accepted was answered within the grace."""
    closed_door: bool
    """Newcomers were refused by the kernel; else they were accepted, and answered 503 after the mark."""
    seconds: float
    remark: str = ""
    """What did not go as intended."""


def drain(state: ServerState, grace_s: float) -> DrainReport:
    """Have everything accepted answered, newcomers refused, within `grace_s`; the server still runs afterwards."""
    start = time.monotonic()
    port = urlsplit(state.inference_url).port or 0
    remarks = []
    closed_door = True
    try:
        stop_listening(state.pid, port)
    except BorrowError as e:
        closed_door = False
        remarks.append(f"newcomers were not refused at once ({e})")
    complete = True
    try:
        with ManagementClient.for_state(state) as client:
            _lend_a_hand(client)
            refusal_s = min(_REFUSAL_MAX_S, _REFUSAL_SHARE * grace_s)
            if not _pass_queues(client, start + grace_s - refusal_s):
                complete = False
                remarks.append(f"requests still waited after {grace_s - refusal_s:g} s and got 503")
            try:
                _write_mark(Path(state.run_dir) / DRAIN_FILE)
            except OSError as e:  # a full disk; what was accepted is answered all the same
                remarks.append(f"newcomers on open connections were not refused ({e})")
            time.sleep(_MARK_DELAY_S)
            deadline = start + grace_s
            workers_free = all(wait_workers(client, version, deadline) for version in _versions(client))
            num_owed = _wait_silence(client, state.pid, port, deadline, workers_free=workers_free)
            if num_owed and workers_free and all_were_answered(state):
                remarks.append(f"{num_owed} connection(s) had sent a part of a request, and nothing more")
            elif num_owed:
                complete = False
                remarks.append(_owed(num_owed, grace_s, workers_free=workers_free))
            with suppress(BorrowError):  # where we may not, the end of the process is what clients see
                hang_up(state.pid, port)
    except SmartBatchError as e:  # whatever the management API says, the server is going to be stopped
        complete = False
        remarks.append(str(e))
    return DrainReport(
        complete=complete, closed_door=closed_door, seconds=time.monotonic() - start, remark="; ".join(remarks)
    )


def _owed(num_connections: int, grace_s: float, *, workers_free: bool) -> str:
    which = f"{num_connections} connection(s) got no answer"
    if not workers_free:
        return f"{which} within {grace_s:g} s"
    return f"{which}: the model was removed while they waited, or only a part of the request came"


def _lend_a_hand(client: ManagementClient) -> None:
    """Start a worker for requests that were left in the queue of a version without any."""
    for version in _versions(client):
        if version.min_workers == 0 and version.pending_requests:
            client.scale(version.model_name, 1, version.version)


def _versions(client: ManagementClient) -> list[ModelStatus]:
    return [version for entry in client.models() for version in client.versions(entry.model_name)]


def _pass_queues(client: ManagementClient, deadline: float) -> bool:
    """Wait until all that was queued when called has been handed to workers; False when time ran out."""
    return all(pass_queue(client, version, deadline) for version in _versions(client))


def pass_queue(client: ManagementClient, version: ModelStatus, deadline: float) -> bool:
    """Wait until all that was queued for `version` when called has been handed to workers; False when time ran out."""
    # Queues are first in, first out, and a describe request goes through the same one.
    while version.min_workers > 0:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        try:
            client.describe(version.model_name, version.version, customized=True, timeout_s=left_s)
        except DeadlineError:
            return False
        except ModelNotReadyError:
            return True  # unregistered meanwhile, and its queue with it
        except ManagementError as e:
            if e.status == 503 and version.pending_requests:  # queue full, or the worker restarts
                time.sleep(_POLL_S)
                version = client.describe(version.model_name, version.version)
                continue
        return True  # an error from the handler has been through the queue, too
    return True


def _write_mark(path: Path) -> None:
    # By the clock that counts since the machine's start, which its processes share and nobody sets.
    staged = path.with_suffix(f".{os.getpid()}.tmp")
    staged.write_text(f"{time.monotonic() + _MARK_DELAY_S:.6f}\n", encoding="ascii")
    staged.replace(path)


def wait_workers(client: ManagementClient, version: ModelStatus, deadline: float) -> bool:
    """Wait until every worker has been free once since now; False when time ran out or a handler does not say."""
    missing = {worker.pid for worker in version.workers if worker.status == "READY"}
    while missing:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        answered = describe_workers(client, version, left_s)
        if not answered:
            return False
        missing -= answered.keys()
        if missing:
            time.sleep(_POLL_S)
            version = client.describe(version.model_name, version.version)
            missing &= {worker.pid for worker in version.workers}  # a worker that died has nothing to finish
    return True


def _wait_silence(client: ManagementClient, pid: int, port: int, deadline: float, *, workers_free: bool) -> int:
    """Wait until no connection owes an answer; how many still do once nothing will answer them, or time ran out.

    Args:
        workers_free: nothing accepted is being computed any more: who has waited long by then will wait for ever.
    """
    blind_since: float | None = None
    while True:
        try:
            found = activities(pid, port)
            owing = [a for a in found if a.owes_answer]
            num_owed = len(owing)
            in_vain = workers_free and all(a.last_received_ms >= _VAIN_WAIT_MS for a in owing)
            if (in_vain or not owing) and all(a.quiet_ms >= _SILENCE_MS for a in found):
                return num_owed
        except BorrowError:
            now = time.monotonic()
            num_owed = sum(version.pending_requests for version in _versions(client))
            blind_since = None if num_owed else blind_since or now
            if blind_since is not None and now - blind_since >= _BLIND_SILENCE_S:
                return 0
        if time.monotonic() >= deadline:
            return num_owed
        time.sleep(_POLL_S)
