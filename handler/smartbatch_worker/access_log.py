"""End-to-end latency of every request, from TorchServe's access log.

A worker sees a request only once its batch is formed: how long it waited in TorchServe's queue is known to the
frontend alone, and only the access log tells it, request by request, whatever client was used. One worker of the
server, elected by a file lock, follows the log and counts what it reads; the lock file keeps its position, so that
after a crash the next one goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psutil

from smartbatch_worker import metric_names as names
from smartbatch_worker.telemetry import Telemetry

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.2
ELECTION_INTERVAL_S = 2.0
MAX_READ_BYTES = 4 * 2**20  # a poll's worth of lines; a backlog is read over several polls

# 2026-01-31T12:00:00,123 - /127.0.0.1:51234 "POST /predictions/resnet18 HTTP/1.1" 200 45
# Only answers in the 2xx: an unknown model's 404 must not make a new series, and refusals are not latencies.
_LINE = re.compile(
    rb'^(\S+) - \S+ "(?:POST|PUT|GET) (?:/predictions/|/v2/models/)([\w.-]+)(?:/\S*)? HTTP/[\d.]+" 2\d\d (\d+)\s*$'
)


def find_access_log(env: Mapping[str, str]) -> Path | None:
    """The access log of the frontend that started this worker, or None where it cannot be told.

    SMARTBATCH_ACCESS_LOG names it; otherwise it lies in LOG_LOCATION or `logs/`, relative to the frontend's
    working directory, as log4j2.xml has it.
    """
    if "SMARTBATCH_ACCESS_LOG" in env:
        return Path(env["SMARTBATCH_ACCESS_LOG"])
    try:
        frontend_cwd = Path(psutil.Process(os.getppid()).cwd())
    except psutil.Error:
        return None
    return frontend_cwd / env.get("LOG_LOCATION", "logs") / "access_log.log"


class AccessLogFollower:
    """Feeds smartbatch_request_seconds from one access log; at most one follower per log is active."""

    def __init__(self, path: Path, telemetry: Telemetry) -> None:
        self._path = path
        self._telemetry = telemetry
        self._frontend_start_s = _parent_start_s()

    def start(self) -> None:
        """Follow in a daemon thread, for as long as this worker lives."""
        threading.Thread(target=self._run, name="smartbatch-access-log", daemon=True).start()

    def _run(self) -> None:
        has_warned = False
        while True:
            try:
                with self._path.with_name(self._path.name + ".position").open("a+") as position_file:
                    fcntl.flock(position_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    logger.info("following %s for request latencies", self._path)
                    self._follow(position_file)
            except BlockingIOError:
                pass  # another worker follows
            except OSError as error:
                if not has_warned:  # once: it is tried again every two seconds
                    logger.warning("no request latencies until %s can be followed: %s", self._path, error)
                has_warned = True
            time.sleep(ELECTION_INTERVAL_S)

    def _follow(self, position_file: IO[str]) -> None:
        position = _read_position(position_file)
        log: IO[bytes] | None = None
        try:
            while True:
                if log is None and self._path.exists():
                    log = self._path.open("rb")
                    inode = os.fstat(log.fileno()).st_ino
                    log.seek(position["offset"] if position.get("inode") == inode else 0)
                if log is not None:
                    num_read = self._read(log)
                    if num_read:
                        position = {"inode": os.fstat(log.fileno()).st_ino, "offset": log.tell()}
                        _write_position(position_file, position)
                    elif _was_rotated(self._path, log):
                        log.close()
                        log, position = None, {}
                        continue
                time.sleep(POLL_INTERVAL_S)
        finally:
            if log is not None:
                log.close()

    def _read(self, log: IO[bytes]) -> int:
        """Count whole new lines; a line still being written is left for the next poll."""
        chunk = log.read(MAX_READ_BYTES)
        end = chunk.rfind(b"\n") + 1
        log.seek(end - len(chunk), os.SEEK_CUR)
        seconds: dict[str, list[float]] = {}
        for line in chunk[:end].splitlines():
            match = _LINE.match(line)
            if match is None or _time_s(match[1]) < self._frontend_start_s:
                continue
            # Whole milliseconds, cut off at both ends: the error has no bias, and 0 stands for about half of one.
            seconds.setdefault(match[2].decode(), []).append(max(float(match[3]), 0.5) / 1000)
        values: dict[Any, float] = {}
        for model, of_model in seconds.items():
            self._telemetry.histogram(values, names.REQUEST_SECONDS, of_model, names.REQUEST_SECONDS_BOUNDS, model)
        if values:
            self._telemetry.add(values)
        return end


def _parent_start_s() -> float:
    """When the frontend started: older lines are another server's, and its counters are gone."""
    try:
        return float(psutil.Process(os.getppid()).create_time()) - 1
    except psutil.Error:
        return 0.0


def _time_s(text: bytes) -> float:
    return datetime.fromisoformat(text.decode().replace(",", ".")).timestamp()


def _was_rotated(path: Path, log: IO[bytes]) -> bool:
    try:
        return path.stat().st_ino != os.fstat(log.fileno()).st_ino
    except FileNotFoundError:
        return True


def _read_position(position_file: IO[str]) -> dict[str, int]:
    position_file.seek(0)
    try:
        position = json.loads(position_file.read() or "{}")
        return {"inode": int(position["inode"]), "offset": int(position["offset"])} if position else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _write_position(position_file: IO[str], position: dict[str, int]) -> None:
    position_file.seek(0)
    position_file.truncate()
    json.dump(position, position_file)
    position_file.flush()
