"""What a stress run leaves behind: stress.json, stress.csv, performance_plot.png, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, fields
from pathlib import Path

from smartbatch_load.account.agreement import Agreement, compare
from smartbatch_load.account.files import write_csv, write_json, write_text
from smartbatch_load.account.generator import GeneratorHealth, judge_generator
from smartbatch_load.account.machine import Machine, describe_machine
from smartbatch_load.account.series import Second, Totals, failure_counts, per_second, totals
from smartbatch_load.draw.report import Page, Table, number, percent, render
from smartbatch_load.load.closed_loop import ClosedLoopRun, Ending
from smartbatch_load.load.config import LoadConfig
from smartbatch_load.stress.plot import draw_stress


def write_results(
    folder: Path, run: ClosedLoopRun, config: LoadConfig, served: Mapping[str, str]
) -> tuple[list[str], int]:
    """Write the four files of one run.

    Returns:
        The run in a few lines, and how many requests failed.
    """
    seconds = per_second(run.requests, run.ticks, run.samples, run.start_unix_s)
    total = totals(run.requests, run.elapsed_s, run.samples)
    agreement = compare(run.requests, run.elapsed_s, run.samples)
    health = judge_generator(run.cpu_percents, run.ticks)
    machine = describe_machine()
    warnings = run_warnings(run, total, agreement, health)
    latency = run.server_latency
    write_json(
        folder / "stress.json",
        {
            "ended": run.ending.value,
            "message": run.message,
            "warnings": warnings,
            "totals": asdict(total),
            "agreement": agreement.to_dict(),
            "server_latency": None if latency is None else asdict(latency),
            "generator": asdict(health),
            "failures": failure_counts(run.requests),
            "server": dict(served),
            "settings": config.as_dict(),
            "machine": asdict(machine),
            "series": [asdict(second) for second in seconds],
        },
    )
    columns = [field.name for field in fields(Second)]
    write_csv(folder / "stress.csv", columns, (astuple(second) for second in seconds))
    users = max(step.users for step in config.steps)
    title = f"Stress: {served['model']}, 0 to {users} users"
    caption = f"{_served_line(served, config)}\n{machine}"
    picture = folder / "performance_plot.png"
    draw_stress(picture, seconds, title, caption)
    page = Page(
        title=title,
        subtitle=_served_line(served, config),
        warnings=warnings,
        pictures={_alt(total, users): picture},
        tables=_tables(run, total, agreement, health, machine, served, config),
    )
    write_text(folder / "report.html", render(page))
    lines = [
        *(f"WARNING: {warning}" for warning in warnings),
        f"{total.requests} requests, {total.failures} failed, {number(total.rps)} correct answers/s, "
        f"p50 {number(total.p50_s)} s, p95 {number(total.p95_s)} s, "
        f"average batch {number(total.avg_batch_size)}",
        f"report: {folder / 'report.html'}",
    ]
    return lines, total.failures


def run_warnings(run: ClosedLoopRun, total: Totals, agreement: Agreement, health: GeneratorHealth) -> list[str]:
    """What a reader must know before believing the figures."""
    warnings = []
    if run.ending is not Ending.COMPLETED:
        warnings.append(f"the run did not complete: {run.message}; these are the figures up to then")
    if total.failures:
        warnings.append(f"{total.failures} of {total.requests} requests failed")
    if not run.samples:
        warnings.append("the server's counters were out of reach: batches are what the answers say")
    elif run.ending is Ending.COMPLETED and agreement.within_limit is False:
        warnings.append("client and server disagree by more than 1 %: did somebody else send load meanwhile?")
    if health.warning:
        warnings.append(health.warning)
    return warnings


def _served_line(served: Mapping[str, str], config: LoadConfig) -> str:
    shown = [f"{key} {served[key]}" for key in ("batch size", "max delay", "workers", "precision") if key in served]
    return ", ".join([*shown, f"bodies: {' + '.join(config.payload.sources)}"])


def _alt(total: Totals, users: int) -> str:
    return (
        f"Throughput, latency, batch size and queue depth over {total.elapsed_s:.0f} s while users rise to "
        f"{users}: on average {number(total.rps)} requests/s, p95 {number(total.p95_s)} s"
    )


def _tables(
    run: ClosedLoopRun,
    total: Totals,
    agreement: Agreement,
    health: GeneratorHealth,
    machine: Machine,
    served: Mapping[str, str],
    config: LoadConfig,
) -> list[Table]:
    latency = run.server_latency
    accounts = (
        ("answers, refusals included", agreement.answers, ""),
        ("requests the worker answered", agreement.requests, ""),
        ("batches", agreement.batches, ""),
        ("throughput", agreement.rps, "/ s"),
    )
    tables = [
        Table(
            title="Totals",
            rows=[
                ("requests", f"{total.requests}"),
                ("failed", f"{total.failures}"),
                ("time", number(total.elapsed_s, unit="s")),
                ("throughput", number(total.rps, unit="correct answers / s")),
                ("batches", number(total.batches)),
                ("average batch size", number(total.avg_batch_size)),
                (
                    "latency p50 / p95 / p99",
                    " / ".join(number(v) for v in (total.p50_s, total.p95_s, total.p99_s)) + " s",
                ),
                ("slowest", number(total.max_s, unit="s")),
            ],
        ),
        Table(
            title="Two accounts",
            columns=("", "client", "server's counters", "difference"),
            rows=[
                (name, number(a.client, 5, unit), number(a.server, 5, unit), percent(a.discrepancy))
                for name, a, unit in accounts
            ]
            + [
                (
                    "latency p50 / p95",
                    f"{number(total.p50_s)} / {number(total.p95_s)} s",
                    "–" if latency is None else f"{number(latency.p50_s)} / {number(latency.p95_s)} s",
                    "",
                )
            ],
        ),
        Table(
            title="Load generator",
            rows=[
                ("processes", str(health.processes)),
                (
                    "CPU of the busiest, mean / max",
                    f"{number(health.cpu_mean_percent)} / {number(health.cpu_max_percent)} % of a core",
                ),
                (
                    "event loop lag p95",
                    number(None if health.lag_p95_s is None else 1000 * health.lag_p95_s, unit="ms"),
                ),
            ],
        ),
    ]
    if failures := failure_counts(run.requests):
        rows = [(text, str(count)) for text, count in list(failures.items())[:20]]
        tables.append(Table(title="Failures", columns=("what", "times"), rows=rows))
    tables.append(Table(title="Server", rows=list(served.items())))
    tables.append(Table(title="Settings", rows=[(key, str(value)) for key, value in config.as_dict().items()]))
    described = asdict(machine) | {"packages": ", ".join(f"{k} {v}" for k, v in machine.packages.items())}
    rows = [(k, ", ".join(v) if isinstance(v, tuple) else str(v)) for k, v in described.items()]
    tables.append(Table(title="Machine", rows=[(key.replace("_", " "), value or "none") for key, value in rows]))
    return tables
