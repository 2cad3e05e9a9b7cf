"""Write smartbatch.json beside this file: a Grafana dashboard of SmartBatch servers, by Grafana's own builders.

    python -m deploy.grafana.dashboard

Every query is asked of a Prometheus that scrapes a server under load, in tests/e2e/models/test_dashboard.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableOption, VariableRefresh, VariableSort
from smartbatch_worker.contract import metrics as names

PLACE = Path(__file__).with_name("smartbatch.json")
OF = 'instance=~"$instance", model=~"$model"'
"""What every metric with a model is narrowed to."""
SPAN = 8
"""Of 24 columns: three panels side by side."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    """By what a line is called, where `{{label}}` is a label's value."""


def rate(name: str, by: str, more: str = "", of: str = OF) -> str:
    """A counter's increase a second, added up by labels."""
    return f"sum by ({by}) (rate({name}{{{', '.join(filter(None, (of, more)))}}}[$__rate_interval]))"


def average(name: str) -> str:
    """Of what a histogram saw, by model."""
    return f"{rate(f'{name}_sum', 'model')} / {rate(f'{name}_count', 'model')}"


def quantile(share: float) -> str:
    """Of the seconds that answers with 2xx took."""
    buckets = rate(f"{names.REQUEST_SECONDS}_bucket", "le", f'outcome="{names.SUCCESS}"')
    return f"histogram_quantile({share}, {buckets})"


def gauge(name: str, by: str, how: str = "sum", of: str = OF) -> str:
    """What stands now, by labels."""
    return f"{how} by ({by}) ({name}{{{of}}})"


ALL_REQUESTS = f"sum(rate({names.HTTP_REQUESTS}{{{OF}}}[$__rate_interval]))"
FAILED_REQUESTS = f'(sum(rate({names.HTTP_REQUESTS}{{{OF}, status=~"5.."}}[$__rate_interval])) or vector(0))'
OF_SERVER = 'instance=~"$instance"'
OF_TORCHSERVE = 'instance=~"$instance", model_name=~"$model"'
WAITED = rate(names.QUEUE_LATENCY, "model_name", of=OF_TORCHSERVE)
TAKEN = rate("ts_inference_requests_total", "model_name", of=OF_TORCHSERVE)

ROWS: dict[str, tuple[Panel, ...]] = {
    "Requests": (
        Panel(
            "Requests a second, by status",
            "Every prediction asked for over HTTP; 499 is a connection that broke before its answer.",
            "reqps",
            {"{{status}}": rate(names.HTTP_REQUESTS, "status")},
        ),
        Panel(
            "Latency",
            "From a request's first line to its answer's last byte, of answers with 2xx; good to a tenth.",
            "s",
            {"p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99)},
        ),
        Panel(
            "Share that fails",
            "Of all requests, those answered with 5xx.",
            "percentunit",
            {"5xx": f"{FAILED_REQUESTS} / {ALL_REQUESTS}"},
        ),
        Panel(
            "Refused by the frontend, by reason",
            "overloaded: the queue is full. no_worker: nobody serves the model.",
            "reqps",
            {"{{reason}}": rate(names.REJECTED, "reason", of=OF_SERVER)},
        ),
        Panel(
            "Bytes held",
            "Of requests, and how many may be: above that newcomers get 503.",
            "bytes",
            {
                "held": gauge(names.IN_FLIGHT_BYTES, "instance", of=OF_SERVER),
                "limit": gauge(names.IN_FLIGHT_LIMIT_BYTES, "instance", of=OF_SERVER),
            },
        ),
        Panel(
            "Waited in the queue",
            "Seconds on average before a worker took a request.",
            "s",
            {"{{model_name}}": f"{WAITED} / {TAKEN}"},
        ),
    ),
    "Queues and batches": (
        Panel(
            "Queue",
            "Requests that wait for a worker, and how many may.",
            "short",
            {
                "{{model}}": gauge(names.QUEUE_REQUESTS, "model"),
                "{{model}}, room": gauge(names.QUEUE_CAPACITY, "model"),
            },
        ),
        Panel(
            "Average batch and forward",
            "Requests that TorchServe handed over together; items that shared a forward.",
            "short",
            {"{{model}}, batch": average(names.BATCH_SIZE), "{{model}}, forward": average(names.FORWARD_SIZE)},
        ),
        Panel(
            "Workers' time, by stage",
            "Seconds a second: 1 is one worker all the time.",
            "s",
            {"{{stage}}": rate(names.STAGE_SECONDS, "stage")},
        ),
        Panel("Items a second", "Of all requests.", "ops", {"{{model}}": rate(names.ITEMS, "model")}),
        Panel(
            "Padding",
            "Of the last batch, the share that was padding.",
            "percentunit",
            {"{{model}}": gauge(names.PADDING_RATIO, "model", "max")},
        ),
        Panel(
            "Micro-batches cut, by reason",
            "oom: memory was short. poison: an item made its forward fail.",
            "ops",
            {"{{reason}}": rate(names.SPLITS, "reason")},
        ),
    ),
    "Workers": (
        Panel(
            "Workers, by state",
            "Those in model_loaded answer.",
            "short",
            {"{{state}}": gauge(names.WORKERS, "state")},
        ),
        Panel(
            "Restarts",
            "Starts of workers that had ended, in an hour.",
            "short",
            {"{{model}}": f"sum by (model) (increase({names.WORKER_RESTARTS}{{{OF}}}[1h]))"},
        ),
        Panel(
            "Random weights",
            "1: the model's weights are random numbers, and so are its answers.",
            "bool_yes_no",
            {"{{model}}": gauge(names.WEIGHTS_RANDOM, "model", "max")},
        ),
    ),
}


def build() -> dashboard.Dashboard:
    """The dashboard, for any Prometheus that is chosen."""
    source = DataSourceRef(type_val="prometheus", uid="${datasource}")
    made = (
        dashboard.Dashboard("SmartBatch")
        .uid("smartbatch")
        .description("Requests, queues, batches and workers of SmartBatch servers; docs/metrics.md.")
        .tags(["smartbatch"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, query in (
        ("instance", f"label_values({names.WORKERS}, instance)"),
        ("model", f'label_values({names.WORKERS}{{instance=~"$instance"}}, model)'),
    ):
        made.with_variable(
            dashboard.QueryVariable(name)
            .label(name.capitalize())
            .query(query)
            .datasource(source)
            .current(VariableOption(selected=True, text="All", value="$__all"))
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
        )
    for title, panels in ROWS.items():
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(_drawn(panel, source))
    return made


def _drawn(panel: Panel, source: DataSourceRef) -> timeseries.Panel:
    made = timeseries.Panel().title(panel.title).description(panel.description).unit(panel.unit)
    made.datasource(source).height(8).span(SPAN).min(0)
    for letter, (legend, query) in zip("ABC", panel.queries.items(), strict=False):
        made.with_target(prometheus.Dataquery().expr(query).legend_format(legend).ref_id(letter))
    return made


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title with each of its queries."""
    for panels in ROWS.values():
        for panel in panels:
            for query in panel.queries.values():
                yield panel.title, query


def text() -> str:
    """The file."""
    encoded: str = JSONEncoder(sort_keys=True, indent=1).encode(build().build())
    return encoded + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
