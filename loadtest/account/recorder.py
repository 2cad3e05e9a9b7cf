"""Writes each request down as it ends, inside Locust's processes.

Files are flushed twice a second, so that whatever ends a run, its data so far is there. One pair a process:
`requests-<pid>.csv` and `ticks-<pid>.csv`; `smartbatch_load.account.records` reads them.
"""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path
from typing import Any

import gevent
from smartbatch_load.account.records import REQUEST_COLUMNS, TICK_COLUMNS
from smartbatch_worker.contract.headers import BATCH_SIZE

FLUSH_S = 0.5
NAP_S = 0.05
"""The generator's lag is how much longer than this its naps take."""


def record(environment: Any, folder: str) -> None:
    """Begin recording this process and, as files are opened at the first row, each that Locust forks."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    requests_log = _Log(folder, "requests", REQUEST_COLUMNS)
    ticks_log = _Log(folder, "ticks", TICK_COLUMNS)

    def on_request(**event: Any) -> None:
        response = event.get("response")
        headers = getattr(response, "headers", None)
        took_s = event["response_time"] / 1000
        error = event.get("exception")
        requests_log.add(
            f"{event['start_time'] + took_s:.6f}",
            f"{took_s:.6f}",
            0 if error else 1,
            getattr(response, "status_code", 0) or 0,
            (headers.get(BATCH_SIZE) if headers else None) or 0,
            event["name"],
            " ".join(str(error).split())[:200] if error else "",  # one line: the reader splits at newlines
        )

    def tick() -> None:
        parent = os.getppid()
        while True:
            lag_s, until = 0.0, time.monotonic() + FLUSH_S
            while time.monotonic() < until:
                before = time.monotonic()
                gevent.sleep(NAP_S)
                lag_s = max(lag_s, time.monotonic() - before - NAP_S)
            users = environment.runner.user_count if environment.runner else 0
            if type(environment.runner).__name__ != "MasterRunner":
                ticks_log.add(f"{time.time():.3f}", users, f"{lag_s:.4f}")
            requests_log.flush()
            ticks_log.flush()
            if os.getppid() != parent:
                os._exit(1)  # whoever started the run was killed: nobody waits for this load

    def on_quit(**_: Any) -> None:
        requests_log.flush()
        ticks_log.flush()

    environment.events.request.add_listener(on_request)
    environment.events.quitting.add_listener(on_quit)
    environment.events.quit.add_listener(on_quit)
    gevent.spawn(tick)


class _Log:
    """Rows of one CSV file, written in one piece at each flush."""

    def __init__(self, folder: str, stem: str, columns: tuple[str, ...]) -> None:
        self._folder, self._stem, self._columns = folder, stem, columns
        self._pending: list[tuple[Any, ...]] = []
        self._file: io.TextIOWrapper | None = None

    def add(self, *row: Any) -> None:
        self._pending.append(row)

    def flush(self) -> None:
        if not self._pending:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._file is None:
            path = Path(self._folder) / f"{self._stem}-{os.getpid()}.csv"
            self._file = path.open("a", encoding="utf-8")
            writer.writerow(self._columns)
        writer.writerows(self._pending)
        self._pending.clear()
        self._file.write(text.getvalue())
        self._file.flush()
