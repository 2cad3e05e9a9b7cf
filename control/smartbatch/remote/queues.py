"""Wait until a version's queue, and its workers, have done what they had: by requests that go the same way."""

from __future__ import annotations

import time

from smartbatch.errors import DeadlineError, ModelNotReadyError
from smartbatch.remote.management import ManagementClient, ManagementError, ModelStatus
from smartbatch.remote.status import describe_workers

_POLL_S = 0.02


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
