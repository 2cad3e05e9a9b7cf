"""Reads what Locust's processes write, while they still write it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

"""Answer header with the requests in its batch."""
REQUEST_COLUMNS = ("end_unix_s", "latency_s", "ok", "status", "batch_size", "source", "error")
TICK_COLUMNS = ("unix_s", "users", "lag_s")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the client saw it."""

    end_unix_s: float
    latency_s: float
    ok: bool
    status: int
    """HTTP status; 0 where no answer came."""
    batch_size: int
    """Requests in the batch it was computed in, as the server says; 0 where it does not say."""
    source: str
    error: str

    @property
    def start_unix_s(self) -> float:
        """When it was sent."""
        return self.end_unix_s - self.latency_s


@dataclass(frozen=True, slots=True)
class Tick:
    """State of one generator process."""

    unix_s: float
    process: str
    users: int
    lag_s: float
    """How late its event loop woke at worst since the tick before."""


class RecordReader:
    """Follows the files of one run; `read` picks up where it left off."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self.requests: list[Request] = []
        self.ticks: list[Tick] = []

    def read(self) -> None:
        """Add the rows written since the last call; a row still being written waits for the next."""
        for path in sorted(self._folder.glob("requests-*.csv")):
            for row in self._new_rows(path):
                self.requests.append(
                    Request(float(row[0]), float(row[1]), row[2] == "1", int(row[3]), int(row[4]), row[5], row[6])
                )
        for path in sorted(self._folder.glob("ticks-*.csv")):
            process = path.stem.removeprefix("ticks-")
            for row in self._new_rows(path):
                self.ticks.append(Tick(float(row[0]), process, int(row[1]), float(row[2])))

    def _new_rows(self, path: Path) -> list[list[str]]:
        offset = self._offsets.get(path, 0)
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read()
        end = chunk.rfind(b"\n") + 1
        if end == 0:
            return []
        self._offsets[path] = offset + end
        rows = list(csv.reader(chunk[:end].decode("utf-8").splitlines()))
        return rows[1:] if offset == 0 else rows
