"""Counters and gauges to TorchServe, which serves them to Prometheus.

TorchServe reads metrics as lines on the worker's stdout. Values are added up here and written in one go by a thread of
their own: at once when the last write is old enough, else at most FLUSH_INTERVAL_S later, so that a worker doing
hundreds of batches a second does not make the frontend parse thousands of lines, and no answer waits for them.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from smartbatch_worker.contract import metrics as names

FLUSH_INTERVAL_S = 0.05

Labels = tuple[tuple[str, str], ...]


class Telemetry:
    """One worker's metrics, labelled with its model's name."""

    def __init__(self, model_name: str, worker_name: str, write: Callable[[str], None] | None = None) -> None:
        self._model_name = model_name
        self._worker_name = worker_name
        self._write = write or _write_stdout
        self._hostname = socket.gethostname()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._counters: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._last_flush = 0.0
        threading.Thread(target=self._flush_on_time, name="smartbatch-telemetry", daemon=True).start()

    def add(self, values: Mapping[tuple[str, Labels], float]) -> None:
        """Add to counters, all at once: a scrape sees a batch whole or not at all."""
        with self._lock:
            for key, value in values.items():
                self._counters[key] = self._counters.get(key, 0.0) + value
            self._wake.notify()

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to one counter."""
        self.add({self.key(name, **labels): value})

    def gauge(self, name: str, value: float, per_worker: bool = False) -> None:
        """Set a gauge; `per_worker` ones carry the worker's name."""
        labels = {"worker": self._worker_name} if per_worker else {}
        with self._lock:
            self._gauges[self.key(name, **labels)] = value
            self._wake.notify()

    def key(self, name: str, **labels: str) -> tuple[str, Labels]:
        """A series: name and labels in the order config/metrics.yaml declares them."""
        return name, (("model", self._model_name), ("level", "Model"), *labels.items())

    def histogram(
        self,
        values: dict[tuple[str, Labels], float],
        name: str,
        observations: Sequence[float],
        bounds: tuple[float, ...],
    ) -> None:
        """Add observations to `values`, as the cumulative counters Prometheus reads as a histogram.

        TorchServe's own histograms have fixed buckets, so ours are counters labelled `le`; the mended frontend makes
        true histograms of them.
        """
        for bound, count in names.cumulative_counts(observations, bounds).items():
            key = self.key(f"{name}_bucket", le=names.le_label(bound))
            values[key] = values.get(key, 0.0) + count
        for suffix, amount in (("_sum", sum(observations)), ("_count", len(observations))):
            key = self.key(f"{name}{suffix}")
            values[key] = values.get(key, 0.0) + amount

    def count_batch(
        self, statuses: Sequence[int], num_items: int, timer: StageTimer, padding_ratio: float | None
    ) -> None:
        """Add what one batch did.

        Args:
            statuses: of its answers.
            num_items: of all its requests.
            timer: of its stages.
            padding_ratio: the share of its numbers that was padding; None where nothing is padded.
        """
        values: dict[tuple[str, Labels], float] = {self.key(names.BATCHES): 1.0}
        for status in statuses:
            key = self.key(names.REQUESTS, status=str(status))
            values[key] = values.get(key, 0.0) + 1
        values[self.key(names.ITEMS)] = float(num_items)
        for stage, seconds in timer.seconds.items():
            values[self.key(names.STAGE_SECONDS, stage=stage)] = seconds
        if padding_ratio is not None:
            self.gauge(names.PADDING_RATIO, padding_ratio)
        for name, sizes in ((names.BATCH_SIZE, [len(statuses)]), (names.FORWARD_SIZE, timer.forward_sizes)):
            self.histogram(values, name, sizes, names.HISTOGRAMS[name])
        self.add(values)

    def zeros(self) -> dict[tuple[str, Labels], float]:
        """Every counter at zero: a series that appears with its first event hides that event from `rate()`."""
        values = {self.key(name): 0.0 for name, labels in names.COUNTERS.items() if not labels}
        for name, bounds in names.HISTOGRAMS.items():
            for bound in (*bounds, float("inf")):
                values[self.key(f"{name}_bucket", le=names.le_label(bound))] = 0.0
        values |= {self.key(names.STAGE_SECONDS, stage=stage): 0.0 for stage in names.STAGES}
        values |= {self.key(names.SPLITS, reason=reason): 0.0 for reason in names.SPLIT_REASONS}
        values[self.key(names.REQUESTS, status="200")] = 0.0
        return values

    def flush(self) -> None:
        """Write what has been added, now."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._counters and not self._gauges:
            return
        timestamp = int(time.time())
        lines = [
            f"[METRICS]{name}.unit:{_number(value)}|#{','.join(f'{k}:{v}' for k, v in labels)}"
            f"|#type:{kind}|#hostname:{self._hostname},{timestamp}\n"
            for kind, series in (("COUNTER", self._counters), ("GAUGE", self._gauges))
            for (name, labels), value in series.items()
        ]
        self._counters.clear()
        self._gauges.clear()
        self._last_flush = time.monotonic()
        self._write("".join(lines))

    def _flush_on_time(self) -> None:
        with self._lock:
            while True:
                while not self._counters and not self._gauges:
                    self._wake.wait()
                left_s = self._last_flush + FLUSH_INTERVAL_S - time.monotonic()
                if left_s > 0:
                    self._wake.wait(timeout=left_s)
                else:
                    self._flush()


class StageTimer:
    """Seconds spent per stage of one batch, when, and the forwards that they were spent on."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(names.STAGES, 0.0)
        self.started = time.perf_counter()
        self.spells: list[tuple[str, float, float]] = []
        """Stage, start and end of each block, by the same clock as `started`."""
        self.forward_sizes: list[int] = []
        """Items of each forward whose answers were taken."""

    def since_start(self) -> float:
        """Seconds."""
        return time.perf_counter() - self.started

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as part of stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            self.seconds[name] += end - start
            self.spells.append((name, start, end))


def _number(value: float) -> str:
    # TorchServe's pattern takes digits, point, minus, comma and e: no "+", no "inf", no "nan".
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _write_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
