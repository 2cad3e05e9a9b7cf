"""`smartbatch top`: what every model is doing now, from the metrics endpoint alone."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smartbatch.errors import NotRunningError
from smartbatch.watch.rates import ModelView, look, views

HISTORY = 40
BARS = "▁▂▃▄▅▆▇█"


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
    looks = deque([look(metrics_url, verify)])
    if once:
        time.sleep(interval_s)
        looks.append(look(metrics_url, verify))
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
                    looks.append(look(metrics_url, verify))
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
