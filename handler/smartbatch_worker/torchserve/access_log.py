"""End-to-end latency of every request, from TorchServe's access log.

A worker sees a request only once its batch is formed: how long it waited in TorchServe's queue is known to the
frontend alone, and only the access log tells it, request by request, whatever client was used. One worker of the
server, elected by a file lock, follows the log and counts what it reads; the lock file keeps its position, so that
after a crash the next one goes on where it stopped.

Lines of an earlier server in the same file are not counted. They are told by their place, not by their time, which is
the JVM's local one and steps with the machine's clock: a worker notes where the log ends before it is ready, and until
the first is, no model of the handler's has answered anything.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from smartbatch_worker.contract import environment
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.contract.process_identity import birth
from smartbatch_worker.process.siblings import serve_one_model
from smartbatch_worker.torchserve.access_lines import read_line
from smartbatch_worker.torchserve.log_tail import LogTail, Position, end_of
from smartbatch_worker.torchserve.telemetry import Telemetry

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.2
ELECTION_INTERVAL_S = 2.0


def find_access_log(env: Mapping[str, str]) -> Path | None:
    """The access log of the frontend that started this worker, or None where it cannot be told.

    SMARTBATCH_ACCESS_LOG names it; otherwise it lies in LOG_LOCATION or `logs/`, relative to the frontend's
    working directory, as log4j2.xml has it.
    """
    if environment.ACCESS_LOG in env:
        return Path(env[environment.ACCESS_LOG])
    try:
        frontend_cwd = Path(psutil.Process(os.getppid()).cwd())
    except psutil.Error:
        return None
    return frontend_cwd / env.get("LOG_LOCATION", "logs") / "access_log.log"


class AccessLogFollower:
    """Feeds smartbatch_request_seconds from one access log; at most one follower per log leads.

    Args:
        path: the access log; it need not exist yet.
        telemetry: where the latencies are counted.
        frontend: the process that writes the log; None is this worker's parent.
    """

    def __init__(self, path: Path, telemetry: Telemetry, frontend: str | None = None) -> None:
        self._path = path
        self._telemetry = telemetry
        self._frontend = f"{os.getppid()} {birth(os.getppid())}" if frontend is None else frontend
        self._first = end_of(path) or Position(0, 0)
        self._position_file: IO[str] | None = None
        self._tail: LogTail | None = None

    def start(self) -> None:
        """Follow in a daemon thread, for as long as this worker lives."""
        threading.Thread(target=self._run, name="smartbatch-access-log", daemon=True).start()

    def lead(self) -> bool:
        """Try to become the one that counts; False where another is.

        Raises:
            OSError: the lock file cannot be used.
        """
        if self._position_file is not None:
            return True
        descriptor = os.open(_position_path(self._path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        position_file = os.fdopen(descriptor, "r+")
        try:
            fcntl.flock(position_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            position_file.close()
            return False
        self._position_file = position_file
        self._tail = LogTail(self._path, _read_position(position_file, self._frontend) or self._first)
        return True

    def count(self) -> int:
        """Count what is new in the log; call again at once while it gives more than 0.

        Returns:
            How many lines it read.
        """
        assert self._tail is not None, "count() is called by the one that leads"
        assert self._position_file is not None
        lines = self._tail.read()
        if not lines:
            return 0
        seconds: dict[str | None, list[float]] = {}
        for line in lines:
            answered = read_line(line)
            if answered is not None:
                seconds.setdefault(answered.model, []).append(answered.seconds)
        # TorchServe knows which model it took; here it is certain only where there is no other.
        if None in seconds and not serve_one_model():
            del seconds[None]
        values: dict[Any, float] = {}
        for model, of_model in seconds.items():
            self._telemetry.histogram(values, names.REQUEST_SECONDS, of_model, names.REQUEST_SECONDS_BOUNDS, model)
        if values:
            self._telemetry.add(values)
        position = self._tail.position
        assert position is not None
        _write_position(self._position_file, self._frontend, position)
        return len(lines)

    def resign(self) -> None:
        """Let another one count."""
        if self._tail is not None:
            self._tail.close()
        if self._position_file is not None:
            self._position_file.close()
        self._tail = self._position_file = None

    def _run(self) -> None:
        has_warned = False
        while True:
            try:
                if self.lead():
                    logger.info("following %s for request latencies", self._path)
                    while True:
                        if not self.count():
                            time.sleep(POLL_INTERVAL_S)
            except OSError as error:
                if not has_warned:  # once: it is tried again every two seconds
                    logger.warning("no request latencies until %s can be followed: %s", self._path, error)
                has_warned = True
                self.resign()
            time.sleep(ELECTION_INTERVAL_S)


def _position_path(log: Path) -> Path:
    return log.with_name(log.name + ".position")


def _read_position(position_file: IO[str], frontend: str) -> Position | None:
    """Where a follower of the same frontend stopped; None where none did, or the file is damaged."""
    try:
        kept = json.loads(position_file.read())
        return Position(int(kept["inode"]), int(kept["offset"])) if kept["frontend"] == frontend else None
    except (ValueError, KeyError, TypeError):
        return None


def _write_position(position_file: IO[str], frontend: str, position: Position) -> None:
    record = {"frontend": frontend, "inode": position.inode, "offset": position.offset}
    # One write over the last one, and no moment at which the file is empty: a kill leaves the old one or the new.
    text = json.dumps(record).ljust(200).encode() + b"\n"
    os.pwrite(position_file.fileno(), text, 0)
    os.ftruncate(position_file.fileno(), len(text))
