"""All of a scoring: what is asked, the parts that are left, the cluster, the manifest."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.environment import PREFIX

from smartbatch.bulk.rows import Summary
from smartbatch.client.progress import Shown
from smartbatch.errors import InterruptedRunError, SmartBatchError, UsageError
from smartbatch.installation import need
from smartbatch.scoring.actor import Task
from smartbatch.scoring.cluster import connected, machines, run, share_out
from smartbatch.scoring.destination import Destination
from smartbatch.scoring.inputs import InputSettings, Planned, plan
from smartbatch.scoring.parts import Done, Part
from smartbatch.scoring.places import place_of
from smartbatch.server.archives import Archive

DEFAULT_BATCH_SIZE = 64
DEFAULT_PART_ROWS = 1024
VERSION = 1
"""Of what stands in the output."""
_TOLD = 3
"""Parts that are not done of which is said why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """What is asked of which model, and where."""

    source: str
    """A folder or file; a path, or an address."""
    out: str
    """A folder, the same."""
    archive: Path
    columns: Sequence[str] = ()
    paths: bool = False
    """Texts of a table are paths."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """As of a request."""
    batch_size: int = DEFAULT_BATCH_SIZE
    """Rows handed to the handler together."""
    part_rows: int = DEFAULT_PART_ROWS
    """Rows of a file of the output."""
    address: str | None = None
    """Of the Ray cluster."""
    actors: int | None = None
    cpus: int | None = None
    """Of each actor."""
    retry_failed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSummary(Summary):
    """The seconds with the start of Ray and of the model; the failures of all runs."""

    parts: int


def score_all(settings: ScoreSettings, say: Callable[[str], None]) -> ScoreSummary:
    """Answer every row that has no answer yet.

    Args:
        settings: what is asked.
        say: told what the user should know meanwhile.

    Raises:
        UsageError: something is wrong with what is asked.
        NotRunningError: there is no such cluster.
        InterruptedRunError: Ctrl-C; the same command goes on.
        SmartBatchError: some parts are not done; the message says why, and the same command goes on.
        OSError: something cannot be read or written.
    """
    need("ray", "smartbatch score")
    _check_archive(settings.archive)
    given = InputSettings(given=settings.source, columns=tuple(settings.columns), paths=settings.paths)
    planned = plan(given, settings.part_rows, settings.out)
    destination = Destination(place_of(settings.out))
    job = _asked(settings, planned)
    destination.begin(job)
    done = destination.done()
    if settings.retry_failed:
        again = [one for one in done.values() if one.failed]
        destination.reopen(again)
        for one in again:
            del done[one.number]
        say(f"{settings.out}: {len(again)} parts with failed rows are done again")
    left = [part for part in planned.parts if part.number not in done]
    if done and left:
        say(f"{settings.out}: {len(done)} of {len(planned.parts)} parts are done")
    rows_before = sum(one.rows for one in done.values())
    began = time.monotonic()
    if left:
        _do(settings, planned, left, done)
    seconds = time.monotonic() - began
    parts = [done[part.number] for part in planned.parts]
    destination.finish(parts, job)
    rows, failed = sum(one.rows for one in parts), sum(one.failed for one in parts)
    return ScoreSummary(
        out=settings.out,
        parts=len(parts),
        rows=rows,
        answered=rows - failed,
        failed=failed,
        seconds=round(seconds, 3),
        rows_per_s=round((rows - rows_before) / max(seconds, 1e-9), 1),
        failures=dict(sum((Counter(one.failures) for one in parts), Counter[str]())),
    )


def _do(settings: ScoreSettings, planned: Planned, left: Sequence[Part], done: dict[int, Done]) -> None:
    """Do the parts that are left, and note each in `done`."""
    shown = Shown(
        planned.total, done=sum(one.rows for one in done.values()), failed=sum(one.failed for one in done.values())
    )
    reasons: dict[int, str] = {}
    try:
        with connected(settings.address), shown:
            share = share_out(machines(), settings.actors, settings.cpus, len(left))
            with closing(run(left, _task(settings, planned, share.cpus, share.gpus), settings.archive, share)) as came:
                for one in came:
                    if one.is_fatal:
                        raise SmartBatchError(str(one.error))
                    if one.error is not None:
                        reasons[one.number] = one.error
                        continue
                    done[one.number] = one
                    shown.add(one.rows, one.failed)
    except KeyboardInterrupt:
        told = f"interrupted: {len(done)} of {len(planned.parts)} parts are done; the same command goes on from there"
        raise InterruptedRunError(told) from None
    missing = [part for part in left if part.number not in done]
    if missing:
        why = "; ".join(
            f"{part.name} ({part.files[0] or settings.source}): "
            f"{reasons.get(part.number, 'Ray gave it up; its logs say why')}"
            for part in missing[:_TOLD]
        )
        more = f"; and {len(missing) - _TOLD} more" if len(missing) > _TOLD else ""
        raise SmartBatchError(
            f"{len(missing)} of {len(planned.parts)} parts are not done: {why}{more}. The same command tries them again"
        )


def _task(settings: ScoreSettings, planned: Planned, cpus: int, gpus: int) -> Task:
    return Task(
        input=_anywhere(planned.settings),
        out=_absolute(settings.out),
        headers=dict(settings.headers),
        batch_size=settings.batch_size,
        cpus=cpus,
        has_gpu=bool(gpus),
        environment=_handlers_environment(os.environ),
    )


def _handlers_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are keys of the handler's configuration; the others are about this machine."""
    keys = {PREFIX + name.upper() for name in WorkerConfig.names()}
    return {name: value for name, value in environment.items() if name in keys}


def _anywhere(settings: InputSettings) -> InputSettings:
    """The same input for processes in other folders."""
    return InputSettings(
        given=_absolute(settings.given), columns=settings.columns, paths=settings.paths, kind=settings.kind
    )


def _absolute(given: str) -> str:
    return given if "://" in given else str(Path(given).absolute())


def _asked(settings: ScoreSettings, planned: Planned) -> dict[str, Any]:
    """What makes a scoring another one; not on which machines, nor how fast."""
    return {
        "version": VERSION,
        "model": _digest(settings.archive),
        "headers": dict(settings.headers),
        "part_rows": settings.part_rows,
        "parts": len(planned.parts),
        "source": dict(planned.description),
    }


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"--model must be a .mar that is there, got {str(path)!r}")
    if not Archive(path).is_ours:
        raise UsageError(
            f"--model must be an archive of `smartbatch archive`; the handler in {path} is another one, which "
            "`smartbatch migrate` says how to move"
        )


def _digest(path: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return f"{path.name} {found.hexdigest()}"
