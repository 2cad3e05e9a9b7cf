"""The frontend's own account: every request in exactly one series, whatever its path and whoever answered it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from smartbatch.remote.scrape import Samples, scrape, summary
from smartbatch.server.running import RunningServer
from smartbatch_worker.contract import metrics as names

from tests.faults.conftest import copy_archive

pytestmark = pytest.mark.mended

ODD_NAME = "my mödel"
ROUTES = {
    "/predictions/{m}": "predictions",
    "/predictions/{m}/1.0": "predictions",
    "/predictions/{m}?trace=1": "predictions",
    "/v1/models/{m}:predict": "v1",
    "/v2/models/{m}/infer": "v2",
    "/v2/models/{m}/versions/1.0/infer": "v2",
    "/models/{m}/invoke": "invoke",
    "/invocations?model_name={m}": "invocations",
    "/{m}/predict": "legacy",
    "/{m}/1.0/predict": "legacy",
}
GOOD = b'{"data": [1, 2, 3, 4]}'
GOOD_V2 = b'{"inputs": [{"name": "data", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}]}'
V2_CODES = {503: "overloaded", 500: "worker_died", 507: "worker_out_of_memory"}
NUM_REQUESTS, NUM_CLIENTS, KILL_AFTER, QUEUE_SIZE = 1300, 32, 400, 16
WAIT_S = 120


@pytest.fixture(scope="module")
def server(start: Any, model_store: Path) -> RunningServer:
    """One worker of `tiny`, with room for sixteen requests to wait, and one of another model."""
    copy_archive(model_store / "tiny.mar", model_store / "small_queue.mar", jobQueueSize=QUEUE_SIZE)
    env = {"TINY_SLEEP_S": "0.02", "SMARTBATCH_COMPILE": "off", "SMARTBATCH_MICRO_BATCH": "8"}
    server: RunningServer = start(env=env)
    with server.management() as client:
        client.register("small_queue.mar", "tiny", batch_size=8, max_batch_delay_ms=5, workers=1)
        client.register("tiny.mar", ODD_NAME, batch_size=8, max_batch_delay_ms=5, workers=1)
        for model in ("tiny", ODD_NAME):
            client.wait_ready(model)
            assert post(server, f"/predictions/{quote(model)}").ok
    return server


def post(server: RunningServer, uri: str, body: bytes = GOOD, **keys: Any) -> requests.Response:
    return requests.post(server.inference_url + uri, data=body, timeout=WAIT_S, **keys)


def good(route: str) -> bytes:
    """A body that is answered there."""
    return GOOD_V2 if route == "v2" else GOOD


def code_of(refusal: requests.Response) -> str:
    """The code of the frontend's error; where that is a text, as under /v2, what stands in it."""
    error = json.loads(refusal.text)["error"]
    if isinstance(error, dict):
        return str(error["code"])
    return "no_worker" if "has no worker" in error else V2_CODES[refusal.status_code]


def exposition(server: RunningServer) -> str:
    return requests.get(server.metrics_url, timeout=WAIT_S).text


Told = Counter[tuple[str, str, str]]
"""How often by model, route and status."""


def counted(server: RunningServer) -> Told:
    samples = scrape(server.metrics_url).named(names.HTTP_REQUESTS)
    told = {(s.labels["model"], s.labels["route"], s.labels["status"]): round(s.value) for s in samples}
    return Counter(told)


def gained(server: RunningServer, before: Told, expected: int) -> Told:
    """What was counted since, once it is as many as expected, or the wait is over."""
    deadline = time.monotonic() + WAIT_S
    while (found := counted(server) - before).total() < expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def worker_pid(server: RunningServer) -> int:
    with server.management() as client:
        return client.describe("tiny").workers[0].pid


def seconds_counted(samples: Samples) -> float:
    return samples.total(f"{names.REQUEST_SECONDS}_count")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's prometheus has it)")
def test_promtool_has_no_complaint(server: RunningServer) -> None:
    command = ["promtool", "check", "metrics"]
    checked = subprocess.run(command, input=exposition(server), capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_each_family_is_what_the_contract_says(server: RunningServer) -> None:
    families = {family.name: family for family in text_string_to_metric_families(exposition(server))}
    for name, labels in names.FRONTEND.items():
        family = families[name.removesuffix("_total")]
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} == {frozenset(labels)}, name
    for name in {*names.COUNTERS, *names.GAUGES}:
        family = families[
            name.removesuffix("_total").removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        ]
        assert "TorchServe" not in family.documentation, name
        assert "prometheus" not in family.documentation, name
        assert all(sample.labels["model"] in {"tiny", ODD_NAME} for sample in family.samples), name
    assert families[names.BATCH_SIZE].type == families[names.REQUEST_SECONDS].type == "histogram"
    for name in ("ts_inference_requests", "ts_queue_latency_seconds", "ts_requests_2xx", "ts_queue_time_seconds"):
        assert families[name].samples, "TorchServe's own are still there"


def test_each_route_counts_under_its_model(server: RunningServer) -> None:
    before, seconds_before = counted(server), seconds_counted(scrape(server.metrics_url))
    for route in ROUTES:
        for model in ("tiny", ODD_NAME):
            reply = post(server, route.format(m=quote(model)), good(ROUTES[route]))
            assert reply.status_code == 200, route
            answer = reply.json()
            assert (answer["outputs"][0]["data"] if "outputs" in answer else answer["result"]) == [3, 5, 7, 9], route
    expected = Counter((model, route, "200") for route in ROUTES.values() for model in ("tiny", ODD_NAME))
    assert gained(server, before, expected.total()) == expected
    assert seconds_counted(scrape(server.metrics_url)) - seconds_before == expected.total()


def test_a_model_that_only_a_form_names_is_not_guessed(server: RunningServer) -> None:
    before = counted(server)
    form: Any = {"model_name": (None, "tiny"), "data": ("x.json", GOOD)}
    assert requests.post(f"{server.inference_url}/invocations", files=form, timeout=WAIT_S).ok
    assert gained(server, before, 1) == {("", "invocations", "200"): 1}


def test_a_broken_connection_is_counted_once(server: RunningServer) -> None:
    before, pid, accepted = counted(server), worker_pid(server), num_accepted(server)
    address = urlsplit(server.inference_url)
    os.kill(pid, signal.SIGSTOP)
    try:
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(
                b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD
            )
            while num_accepted(server) == accepted:
                time.sleep(0.02)
            # A close alone might be a client's that still reads; this one is reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert gained(server, before, 1) == {("tiny", "predictions", names.ABORTED): 1}
    assert post(server, "/predictions/tiny").ok
    expected = {("tiny", "predictions", names.ABORTED): 1, ("tiny", "predictions", "200"): 1}
    assert gained(server, before, 2) == expected


def num_accepted(server: RunningServer) -> float:
    return scrape(server.metrics_url).total("ts_inference_requests_total")


def test_a_flood_with_a_full_queue_and_a_killed_worker_agrees_to_the_last_one(server: RunningServer) -> None:
    samples_before, before, pid = scrape(server.metrics_url), counted(server), worker_pid(server)
    told: Told = Counter()
    codes: Counter[str] = Counter()
    lock, local = threading.Lock(), threading.local()
    kinds = [(uri.format(m="tiny"), "tiny", route, good(route)) for uri, route in ROUTES.items()]
    kinds += [("/predictions/nobody", "", "predictions", GOOD), ("/v2/models/tiny/infer", "tiny", "v2", b"{")]

    def send(number: int) -> None:
        if number == KILL_AFTER:
            os.kill(pid, signal.SIGKILL)
        if not hasattr(local, "session"):
            local.session = requests.Session()
        uri, model, route, body = kinds[number % len(kinds)]
        reply = local.session.post(server.inference_url + uri, data=body, timeout=WAIT_S)
        refused = reply.status_code >= 400 and "X-SmartBatch-Batch-Size" not in reply.headers
        code = code_of(reply) if refused else ""
        with lock:
            told[model, route, str(reply.status_code)] += 1
            codes[code] += 1

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        list(pool.map(send, range(NUM_REQUESTS)))

    assert told.total() == NUM_REQUESTS
    statuses = {status for _, _, status in told}
    assert {"200", "400", "404", "503"} <= statuses, told
    assert statuses & {"500", "507"}, told  # TorchServe takes a kill for memory that ran out, if it sees it in time
    assert gained(server, before, NUM_REQUESTS) == told
    after = scrape(server.metrics_url)
    assert seconds_counted(after) - seconds_counted(samples_before) == NUM_REQUESTS
    assert summary(after)["total_requests"] - summary(samples_before)["total_requests"] == NUM_REQUESTS
    for reason in ("overloaded", "worker_died", "worker_out_of_memory", "unknown_model"):
        refused = after.total(names.REJECTED, reason=reason) - samples_before.total(names.REJECTED, reason=reason)
        assert refused == codes[reason], reason
    assert after.total(names.WORKER_RESTARTS, model="tiny") == 1
    assert after.total(names.WORKERS, model="tiny", state="model_loaded") == 1
    assert after.total(names.QUEUE_REQUESTS) == 0
    assert after.total(names.QUEUE_CAPACITY, model="tiny") == QUEUE_SIZE


def test_names_that_nobody_registered_make_no_series(server: RunningServer) -> None:
    models = {model for model, _, _ in counted(server)}
    assert models <= {"", "tiny", ODD_NAME}
