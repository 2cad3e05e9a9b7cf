"""The bar that shows how a run is doing."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from smartbatch_load.account.records import RecordReader, Request
from smartbatch_load.account.series import percentile

WINDOW_S = 3.0
"""The figures shown are those of the last seconds."""


def live_figures(requests: list[Request], now_unix_s: float) -> str:
    """Throughput and p95 of the last seconds, failures so far."""
    recent: list[float] = []
    for request in reversed(requests):  # nearly in the order of their ends
        if request.end_unix_s < now_unix_s - WINDOW_S - 1:
            break
        if request.ok and request.end_unix_s >= now_unix_s - WINDOW_S:
            recent.append(request.latency_s)
    p95_s = percentile(sorted(recent), 0.95)
    p95 = "–" if p95_s is None else f"{p95_s * 1000:.0f} ms"
    return f"{len(recent) / WINDOW_S:6.1f} req/s  p95 {p95:>8}"


class LoadProgress:
    """Progress of one closed-loop run; silent where the console is no terminal."""

    def __init__(self, console: Console, title: str, duration_s: float) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=duration_s, figures="")
        self._counted = 0
        self._failures = 0

    def __enter__(self) -> LoadProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, reader: RecordReader) -> None:
        """Show what is recorded so far."""
        requests = reader.requests
        self._failures += sum(1 for r in requests[self._counted :] if not r.ok)
        self._counted = len(requests)
        if not requests:
            return
        users = reader.ticks[-1].users if reader.ticks else 0
        figures = f"{users:4} users  {live_figures(requests, time.time())}  {self._failures} failed"
        elapsed_s = time.time() - requests[0].start_unix_s
        self._progress.update(self._task, completed=elapsed_s, figures=figures)
