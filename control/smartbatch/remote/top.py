"""`smartbatch top`: what every model is doing now, from the metrics endpoint alone.

The endpoint only counts; figures "now" are what the counters gained between two looks, a few seconds apart.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from smartbatch_worker.contract import metrics as names

from smartbatch.errors import NotRunningError
from smartbatch.remote.scrape import Samples, histogram_quantile, scrape

HISTORY = 40
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One scrape."""

    taken_s: float
    """When, by the monotonic clock."""
    samples: Samples


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelView:
    """One model over the time between two looks; a figure is None where nothing happened to take it from."""

    model: str
    rps: float
    """Requests answered a second, any status; refused ones too, where the frontend counts them."""
    errors_per_s: float
    """Those of them with another status than 2xx."""
    batches_per_s: float
    avg_batch_size: float | None
    batch_sizes: dict[str, float]
    """Share of the batches in each bucket, by its upper bound."""
    avg_forward_size: float | None
    """Items that shared a forward; fewer than a batch's where these have several shapes."""
    queue_depth: float | None
    """Requests waiting, on average: the seconds that answered requests had waited, over the seconds gone by."""
    p50_s: float | None
    p95_s: float | None
    stage_s: dict[str, float]
    """Seconds a batch spends in each stage, on average."""
    measuring_workers: int
    """Workers that answer by a slower way while the fastest one is measured or built."""
    total_requests: int
    total_batches: int


def view(model: str, before: Look, after: Look) -> ModelView:
    """Compare two looks.

    A counter that shrank belongs to a server that was restarted in between: all of it is new.
    """
    seconds = after.taken_s - before.taken_s
    old, new = before.samples, after.samples
    counter = new.request_counter()
    answered = _gain(old, new, counter, model=model)
    good = sum(
        _gain(old, new, counter, model=model, status=status)
        for status in {s.labels["status"] for s in new.named(counter, model=model)}
        if status.startswith("2")
    )
    batches = _gain(old, new, names.BATCHES, model=model)
    latency = _gained_buckets(old, new, names.REQUEST_SECONDS, model=model, outcome=names.SUCCESS)
    waited_s = _gain(old, new, names.QUEUE_LATENCY, model_name=model)
    return ModelView(
        model=model,
        rps=answered / seconds,
        errors_per_s=(answered - good) / seconds,
        batches_per_s=batches / seconds,
        avg_batch_size=_gained_average(old, new, names.BATCH_SIZE, model),
        batch_sizes=_shares(_gained_buckets(old, new, names.BATCH_SIZE, model=model)),
        avg_forward_size=_gained_average(old, new, names.FORWARD_SIZE, model),
        queue_depth=waited_s / seconds if new.named(names.QUEUE_LATENCY, model_name=model) else None,
        p50_s=histogram_quantile(latency, 0.50),
        p95_s=histogram_quantile(latency, 0.95),
        stage_s={
            stage: _gain(old, new, names.STAGE_SECONDS, model=model, stage=stage) / batches
            for stage in names.STAGES
            if batches
        },
        measuring_workers=round(new.total(names.MODEL_MEASURING, model=model)),
        total_requests=round(new.total(counter, model=model)),
        total_batches=round(new.total(names.BATCHES, model=model)),
    )


def views(before: Look, after: Look) -> list[ModelView]:
    """Every model the server counts for."""
    return [view(model, before, after) for model in after.samples.models()]


def run_top(
    metrics_url: str,
    console: Console,
    *,
    verify: bool | str = True,
    once: bool = False,
    as_json: bool = False,
    interval_s: float = 1.0,
    window_s: float = 5.0,
) -> None:
    """Look again and again until Ctrl-C; with `once`, over one interval.

    Args:
        metrics_url: the Prometheus endpoint.
        console: where to.
        verify: what to check a TLS certificate against.
        once: print one view and return.
        as_json: JSON instead of tables; a line a look.
        interval_s: between looks.
        window_s: how far back the figures reach.

    Raises:
        NotRunningError: nothing answers; without `once`, only at the first look.
    """
    looks = deque([_look(metrics_url, verify)])
    if once:
        time.sleep(interval_s)
        looks.append(_look(metrics_url, verify))
        found = views(looks[0], looks[1])
        console.print_json(_json(found)) if as_json else console.print(_tables(found, {}, interval_s, metrics_url))
        return
    history: dict[str, deque[float]] = {}
    with Live(console=console, auto_refresh=False, screen=False, transient=False) as live:
        if as_json:
            live.stop()
        try:
            while True:
                time.sleep(interval_s)
                try:
                    looks.append(_look(metrics_url, verify))
                except NotRunningError as error:
                    live.update(Text(f"{error}\nlooking again every {interval_s:g} s", style="bold red"), refresh=True)
                    looks = deque(list(looks)[-1:])
                    continue
                for entry in views(looks[-2], looks[-1]):
                    history.setdefault(entry.model, deque(maxlen=HISTORY)).append(entry.rps)
                while len(looks) > 2 and looks[-1].taken_s - looks[1].taken_s >= window_s:
                    looks.popleft()
                found = views(looks[0], looks[-1])
                if as_json:
                    print(_json(found), flush=True)
                else:
                    live.update(
                        _tables(found, history, looks[-1].taken_s - looks[0].taken_s, metrics_url), refresh=True
                    )
        except KeyboardInterrupt:
            return  # the way to end it


def sparkline(values: Sequence[float]) -> str:
    """Values as a row of bars, the highest one full.

    >>> sparkline([0, 1, 2])
    '▁▄█'
    """
    highest = max(values, default=0.0)
    if highest <= 0:
        return BARS[0] * len(values)
    return "".join(BARS[int(value / highest * (len(BARS) - 1))] for value in values)


def _look(metrics_url: str, verify: bool | str) -> Look:
    return Look(samples=scrape(metrics_url, verify=verify), taken_s=time.monotonic())


def _gain(old: Samples, new: Samples, name: str, **labels: str) -> float:
    before, after = old.total(name, **labels), new.total(name, **labels)
    return after - before if after >= before else after


def _gained_average(old: Samples, new: Samples, histogram: str, model: str) -> float | None:
    count = _gain(old, new, f"{histogram}_count", model=model)
    return _gain(old, new, f"{histogram}_sum", model=model) / count if count else None


def _gained_buckets(old: Samples, new: Samples, name: str, **labels: str) -> list[tuple[float, float]]:
    """Cumulative buckets of what a histogram gained."""
    start = dict(old.buckets(name, **labels))
    after = new.buckets(name, **labels)
    if any(count < start.get(bound, 0.0) for bound, count in after):
        return after
    return [(bound, count - start.get(bound, 0.0)) for bound, count in after]


def _shares(buckets: Sequence[tuple[float, float]]) -> dict[str, float]:
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return {}
    shares, below = {}, 0.0
    for bound, count in buckets:
        if count > below:
            shares[names.le_label(bound)] = (count - below) / total
        below = count
    return shares


def _json(found: Sequence[ModelView]) -> str:
    return json.dumps({"models": [asdict(entry) for entry in found]})


def _tables(found: Sequence[ModelView], history: dict[str, deque[float]], seconds: float, metrics_url: str) -> Group:
    head = Text(f"{metrics_url}   last {seconds:.0f} s   {time.strftime('%H:%M:%S')}", style="dim")
    if not found:
        return Group(head, Text("no model has answered a request yet"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "req/s", "errors/s", "batches/s", "avg batch", "avg forward", "queue", "p50", "p95"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for entry in found:
        table.add_row(
            entry.model,
            f"{entry.rps:.1f}",
            Text(f"{entry.errors_per_s:.1f}", style="bold red" if entry.errors_per_s else ""),
            f"{entry.batches_per_s:.1f}",
            _figure(entry.avg_batch_size),
            _figure(entry.avg_forward_size),
            _figure(entry.queue_depth),
            _ms(entry.p50_s),
            _ms(entry.p95_s),
        )
    details = Table(box=None, pad_edge=False, show_header=False)
    for entry in found:
        sizes = "  ".join(f"≤{bound} {share:.0%}" for bound, share in entry.batch_sizes.items())
        stages = "  ".join(f"{stage} {_ms(took)}" for stage, took in entry.stage_s.items())
        details.add_row(entry.model, "batch sizes", sizes or "–")
        details.add_row("", "time a batch", stages or "–")
        if entry.measuring_workers:
            details.add_row("", "measuring", f"{entry.measuring_workers} workers, not at their full speed yet")
    parts: list[Text | Table] = [head, Text(), table, Text(), details]
    for model, past in history.items():
        parts += [Text(), Text(f"{model} req/s  {sparkline(list(past))}  highest {max(past):.1f}")]
    return Group(*parts)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _ms(value_s: float | None) -> str:
    return "–" if value_s is None else f"{1000 * value_s:.0f} ms" if value_s >= 0.01 else f"{1000 * value_s:.1f} ms"
