"""deploy/grafana and deploy/prometheus with a real Prometheus that scrapes a real server under load."""

from __future__ import annotations

import io
import math
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from PIL import Image
from smartbatch.server.ports import free_ports

from bench.processes import Process
from tests.e2e.models.model_server import ModelServer

pytest.importorskip("grafana_foundation_sdk", reason="it needs Python 3.11")

from deploy.grafana import dashboard

RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "smartbatch.rules.yml"
WAIT_S = 120
NUM_CLIENTS = 4

pytestmark = [
    pytest.mark.mended,
    pytest.mark.skipif(
        shutil.which("prometheus") is None and "CI" not in os.environ, reason="Debian's prometheus is not installed"
    ),
]


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers."""
        reply = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60)
        assert reply.ok, reply.text
        return reply.json()["data"]

    def values(self, query: str) -> list[float]:
        """What a query gives now, one number a series."""
        return [float(series["value"][1]) for series in self.get("query", query=query)["result"]]


@pytest.fixture(scope="module")
def prometheus(models: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes the server each second, with the rules loaded, while clients send good and bad requests."""
    folder = tmp_path_factory.mktemp("prometheus")
    target = urlsplit(models.served.state.metrics_url).netloc
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "smartbatch", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    program = shutil.which("prometheus")
    assert program is not None
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    process = Process([*command, f"--web.listen-address=127.0.0.1:{port}"], dict(os.environ), folder / "log")
    done = Event()
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(stream, "PNG")

    def send(number: int) -> None:
        while not done.is_set():
            models.post("shades", data=stream.getvalue())
            models.post("nobody" if number else "sum", data=b"{")
            time.sleep(0.1)

    try:
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            sending = [pool.submit(send, number) for number in range(NUM_CLIENTS)]
            try:
                running = Prometheus(f"http://127.0.0.1:{port}")
                wait_for_scrapes(running, process)
                yield running
            finally:
                done.set()
            for each in sending:
                each.result()
    finally:
        process.stop()


def wait_for_scrapes(running: Prometheus, process: Process) -> None:
    """Until it has seen the load twice."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if requests.get(f"{running.url}/-/ready", timeout=60).ok and any(
                running.values('rate(smartbatch_batches_total{model="shades"}[20s]) > 0')
            ):
                return
        except requests.ConnectionError:
            pass
        assert time.monotonic() < deadline, "Prometheus does not see the load"
        time.sleep(0.2)


def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus) -> None:
    given = {"$__rate_interval": "20s", "$instance": ".*", "$model": ".*"}
    deadline = time.monotonic() + WAIT_S
    waiting = dict.fromkeys(dashboard.queries())
    while waiting:
        for title, query in list(waiting):
            asked = query
            for name, value in given.items():
                asked = asked.replace(name, value)
            assert "$" not in asked, f"{title}: {asked}"
            if any(map(math.isfinite, prometheus.values(asked))):
                del waiting[title, query]
        assert time.monotonic() < deadline, f"no data: {list(waiting)}"
        time.sleep(0.2)
    assert sum(prometheus.values('rate(smartbatch_rejected_total{reason="unknown_model"}[20s])')) > 0


def test_its_variables_have_values(prometheus: Prometheus) -> None:
    for label, expected in (("model", {"shades", "sum"}), ("instance", set())):
        values = set(prometheus.get(f"label/{label}/values", **{"match[]": "smartbatch_workers"}))
        assert values
        assert values >= expected


def test_the_alerts_are_loaded_and_evaluated(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        (group,) = prometheus.get("rules")["groups"]
        if all(rule["health"] == "ok" for rule in group["rules"]):
            break
        assert time.monotonic() < deadline, [
            (rule["name"], rule["health"], rule.get("lastError")) for rule in group["rules"]
        ]
        time.sleep(0.2)
    assert len(group["rules"]) == RULES.read_text(encoding="utf-8").count("- alert:")
