"""Empty a server before it is stopped: TorchServe itself resets every connection it has.

    close the door   the frontend closes the inference port and answers newcomers on open connections 503; each
                     connection ends with the answer it waits for, or after a moment's silence
    wait             until everything accepted is answered and every client has seen the end of his connection
    refuse           what still waits for a worker when the grace is nearly over is told so rather than cut off

TorchServe's own frontend has no such state (SMARTBATCH_FRONTEND=stock): there, what is queued is answered, newcomers
are taken until the end, and the last of them are reset. All of it takes at most the grace; what it cuts off is in the
report.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from smartbatch.errors import SmartBatchError
from smartbatch.remote.management import ManagementClient
from smartbatch.remote.queues import pass_queue, wait_workers
from smartbatch.remote.state import ServerState

_POLL_S = 0.05
# The share of the grace kept for refusing what is left once the queues were given their time, and its upper limit.
_REFUSAL_SHARE, _REFUSAL_MAX_S = 0.25, 5.0
# Who has sent a part of a request and nothing for so long is not waited for.
_VAIN_WAIT_MS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class DrainReport:
    """How a drain went."""

    complete: bool
    """Everything accepted was answered within the grace."""
    seconds: float
    remark: str = ""
    """What did not go as intended."""


def drain(state: ServerState, grace_s: float) -> DrainReport:
    """Have everything accepted answered, newcomers refused, within `grace_s`; the server still runs afterwards."""
    start = time.monotonic()
    try:
        with ManagementClient.for_state(state) as client:
            drains = client.drain() is not None
            complete, remark = _wait(client, start, grace_s) if drains else _pass_queues(client, start + grace_s)
    except SmartBatchError as e:  # whatever the management API says, the server is going to be stopped
        complete, remark = False, str(e)
    return DrainReport(complete=complete, seconds=time.monotonic() - start, remark=remark)


def _wait(client: ManagementClient, start: float, grace_s: float) -> tuple[bool, str]:
    """Wait for the frontend's drain; whether all was answered, and the remark."""
    patience_s = grace_s - min(_REFUSAL_MAX_S, _REFUSAL_SHARE * grace_s)
    refused = ""
    while True:
        seconds = time.monotonic() - start
        owed = client.drain_state()
        if owed.answering == owed.queued == 0 and owed.connections == owed.receiving:
            if owed.receiving == 0:
                return not refused, refused
            if owed.quiet_ms >= _VAIN_WAIT_MS:
                half = f"{owed.receiving} connection(s) had sent a part of a request, and nothing more"
                return not refused, "; ".join(filter(None, (refused, half)))
        if seconds >= grace_s:
            late = f"{owed.answering + owed.receiving} connection(s) got no answer within {grace_s:g} s"
            return False, "; ".join(filter(None, (refused, late)))
        if seconds >= patience_s and owed.queued:
            client.drain(refuse_queued=True)
            refused = f"requests still waited after {patience_s:g} s and got 503"
        time.sleep(_POLL_S)


def _pass_queues(client: ManagementClient, deadline: float) -> tuple[bool, str]:
    """Wait for what is queued now, in TorchServe's own frontend; whether nothing waits afterwards, and the remark."""
    versions = [version for entry in client.models() for version in client.versions(entry.model_name)]
    passed = all(
        pass_queue(client, version, deadline) and wait_workers(client, version, deadline) for version in versions
    )
    waiting = sum(client.describe(version.model_name, version.version).pending_requests for version in versions)
    return passed and waiting == 0, "TorchServe's own frontend refuses no newcomers: the last may have been reset"
