"""Every answered request is in the latencies, by whatever path it came, and in any time zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
from smartbatch.remote.scrape import scrape
from smartbatch.server.running import RunningServer
from smartbatch_worker.contract import metrics as names

ODD_NAME = "my mödel"
ROUTES = (
    "/predictions/{m}",
    "/predictions/{m}/1.0",
    "/predictions/{m}?trace=1",
    "/v1/models/{m}:predict",
    "/v2/models/{m}/infer",
    "/models/{m}/invoke",
    "/invocations?model_name={m}",
    "/{m}/predict",
    "/{m}/1.0/predict",
)
WAIT_S = 30


@pytest.fixture(scope="module")
def server(start: Any) -> RunningServer:
    """One worker of `tiny`, and a time zone that Java knows and C does not: the log's times are 8 hours behind."""
    server: RunningServer = start(tiny_workers=1, env={"TZ": "PST"})
    return server


@pytest.fixture
def odd_model(server: RunningServer) -> Iterator[str]:
    with server.management() as client:
        client.register("tiny.mar", ODD_NAME, batch_size=8, max_batch_delay_ms=5, workers=1)
        client.wait_ready(ODD_NAME)
        yield ODD_NAME
        client.unregister(ODD_NAME)


def counted(server: RunningServer, model: str) -> float:
    return scrape(server.metrics_url).total(f"{names.REQUEST_SECONDS}_count", ModelName=model)


def wait_for_count(server: RunningServer, model: str, wanted: float) -> None:
    deadline = time.monotonic() + WAIT_S
    while (found := counted(server, model)) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == wanted


def post(server: RunningServer, uri: str, **keys: Any) -> None:
    reply = requests.post(server.inference_url + uri, timeout=60, **(keys or {"json": {"data": [1, 2, 3, 4]}}))
    assert (reply.status_code, reply.json()) == (200, {"result": [3, 5, 7, 9]}), uri


def test_requests_that_name_no_model_are_its_where_there_is_one(server: RunningServer) -> None:
    before = counted(server, "tiny")
    post(server, "/invocations", files={"model_name": (None, "tiny"), "data": ("x.json", b'{"data": [1, 2, 3, 4]}')})
    wait_for_count(server, "tiny", before + 1)


def test_each_route_counts(server: RunningServer, odd_model: str) -> None:
    before = counted(server, "tiny")
    for route in ROUTES:
        post(server, route.format(m="tiny"))
        post(server, route.format(m=quote(odd_model)))
    wait_for_count(server, "tiny", before + len(ROUTES))
    wait_for_count(server, odd_model, len(ROUTES))


def test_a_request_that_names_no_model_is_not_given_to_another_one(server: RunningServer, odd_model: str) -> None:
    before = counted(server, "tiny")
    odd_before = counted(server, odd_model)
    post(server, "/invocations", files={"model_name": (None, odd_model), "data": ("x.json", b'{"data": [1, 2, 3, 4]}')})
    post(server, f"/predictions/{quote(odd_model)}")  # its line comes after the other's
    wait_for_count(server, odd_model, odd_before + 1)
    assert counted(server, "tiny") == before


def test_unknown_models_make_no_series(server: RunningServer) -> None:
    assert requests.post(f"{server.inference_url}/predictions/nobody", data=b"{}", timeout=60).status_code == 404
    before = counted(server, "tiny")
    post(server, "/predictions/tiny")
    wait_for_count(server, "tiny", before + 1)
    assert {s.labels["ModelName"] for s in scrape(server.metrics_url).named(f"{names.REQUEST_SECONDS}_count")} <= {
        "tiny",
        ODD_NAME,
    }
