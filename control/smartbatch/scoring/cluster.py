"""Ray: which machines there are, and actors on them that do parts; what died with one is tried again on another."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbatch_worker.contract.machine import num_cores

from smartbatch.errors import NotRunningError, UsageError
from smartbatch.scoring.actor import Scorer, Task
from smartbatch.scoring.parts import Done, Part

_MAX_BLOCKS = 10_000
"""Of Ray Data's, which a process that drives it looks after; a block may be several parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How a cluster is shared out."""

    actors: int
    cpus: int
    """Of each."""
    gpus: int
    """Of each: 0 or 1."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, for as long as the block runs: the cluster at an address, else that of RAY_ADDRESS, else this machine.

    Raises:
        NotRunningError: no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start reports to nobody
    # Of every actor that may be started again it says that its arguments might be lost: they live where we do.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    found = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if not found.startswith("ray://"):
        options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if found == "local":
        options |= {"num_cpus": num_cores(), "include_dashboard": False}
    try:
        ray.init(found, **options)
    except (ConnectionError, RuntimeError, ValueError) as e:
        if found == "local":
            raise
        raise NotRunningError(f"no Ray cluster answers at {found}: {e}") from e
    try:
        yield
    finally:
        ray.shutdown()


def machines() -> list[Mapping[str, float]]:
    """What each machine of the cluster has: `CPU`, `GPU`."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share_out(there: Sequence[Mapping[str, float]], actors: int | None, cpus: int | None, num_parts: int) -> Share:
    """One actor a GPU of the cluster; where it has none, one a core, or so many cores.

    Args:
        there: the machines.
        actors: how many the user wants.
        cpus: of each, as the user wants it.
        num_parts: more actors would have nothing to do.

    Raises:
        UsageError: no machine has room for one, or all together not for so many.
    """
    gpus = [int(one.get("GPU", 0)) for one in there]
    cores = [int(one.get("CPU", 0)) for one in there]
    each = cpus or max(1, min((c // g for c, g in zip(cores, gpus, strict=True) if g), default=1))
    room = [min(c // each, g) if any(gpus) else c // each for c, g in zip(cores, gpus, strict=True)]
    if not any(room):
        raise UsageError(
            f"--cpus must be at most {max(cores, default=0)}, the cores of the largest machine; got {each}"
        )
    if actors is not None and actors > sum(room):
        what = "GPUs" if any(gpus) else f"shares of {each} cores"
        raise UsageError(f"--actors must be at most {sum(room)}, as the cluster has {what}; got {actors}")
    return Share(actors=min(actors or sum(room), num_parts), cpus=each, gpus=int(any(gpus)))


def run(parts: Sequence[Part], task: Task, archive: Path, share: Share) -> Generator[Done, None, None]:
    """Do parts, in whatever order.

    Ray starts actors again, and does again what they were at, for as long as they die; when that is enough for a part,
    the next actor says (`Destination.note_attempt`).

    Args:
        parts: to do.
        task: what is done to each.
        archive: the .mar.
        share: how many at a time.
    """
    import numpy as np
    import ray
    import ray.util.client

    packed = [ray.put(np.fromfile(archive, np.uint8))]
    if not ray.util.client.ray.is_connected():
        yield from _stream(parts, task, packed, share)
        return
    # Ray Data does not run in a client: an actor on the cluster drives it, and is asked what is done.
    driver = ray.remote(num_cpus=0)(_Driver).remote(parts, task, packed, share)
    try:
        while (done := ray.get(driver.next.remote())) is not None:
            yield done
    finally:
        ray.kill(driver)


class _Driver:
    """`_stream`, for somebody who is not on the cluster."""

    def __init__(self, parts: Sequence[Part], task: Task, packed: Sequence[Any], share: Share) -> None:
        self._stream = _stream(parts, task, packed, share)

    def next(self) -> Done | None:
        """The next part that is done; None after the last one."""
        return next(self._stream, None)


def _stream(parts: Sequence[Part], task: Task, packed: Sequence[Any], share: Share) -> Iterator[Done]:
    """Do parts by Ray Data; `packed` is the archive's bytes, in one object of Ray's."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # the other parts go on
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = [{"part": part.to_json()} for part in parts]
    asked = ray.data.from_items(rows, override_num_blocks=min(len(parts), _MAX_BLOCKS))
    answered = asked.map_batches(
        Scorer,
        fn_constructor_args=(task, packed),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=share.actors, max_tasks_in_flight_per_actor=2),
        num_cpus=share.cpus,
        num_gpus=share.gpus,
    )
    for row in answered.iter_rows():
        yield Done(**json.loads(row["done"]))
