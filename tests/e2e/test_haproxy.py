"""deploy/haproxy.cfg in front of a real server: what it refuses, what it adds."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from smartbatch.server.ports import free_ports
from smartbatch.server.running import RunningServer

from bench.processes import Process
from tests.conftest import StartServer
from tests.e2e.listening import wait_until_listens

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
BODY = {"data": [1, 2, 3, 4]}
FORWARD_S = 0.5

pytestmark = [
    pytest.mark.mended,  # the check asks for /readyz
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]


@pytest.fixture(scope="module")
def slow_server(start: StartServer) -> RunningServer:
    """One request at a time, FORWARD_S each; loaded, since the first request's deadline would count the loading."""
    server = start(tiny_workers=1, batch_size=1, env={"TINY_SLEEP_S": str(FORWARD_S), "SMARTBATCH_MICRO_BATCH": "1"})
    assert requests.post(f"{server.inference_url}/predictions/tiny", json=BODY, timeout=60).status_code == 200
    return server


@pytest.fixture(scope="module")
def proxy(slow_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The proxy's URL."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    env = {
        **os.environ,
        "BIND": address,
        "SMARTBATCH": urlsplit(slow_server.inference_url).netloc,
        "HEADER_TIMEOUT": "2s",
    }
    log = tmp_path_factory.mktemp("haproxy") / "log"
    process = Process(["haproxy", "-db", "-f", str(CONFIG)], env, log)
    try:
        wait_until_listens(port, log)
        yield f"http://{address}"
    finally:
        process.stop()


def test_predictions_pass_and_nothing_else(proxy: str) -> None:
    assert requests.post(f"{proxy}/predictions/tiny", json=BODY, timeout=60).json() == {"result": [3, 5, 7, 9]}
    assert requests.get(f"{proxy}/ping", timeout=60).json() == {"status": "Healthy"}
    assert requests.get(f"{proxy}/readyz", timeout=60).json()["ready"]
    assert requests.get(f"{proxy}/v2/models/tiny", timeout=60).json()["platform"] == "pytorch"
    for path in ("/models", "/explanations/tiny", "/api-description", "/frontend"):
        assert requests.get(proxy + path, timeout=60).status_code == 404


def test_forms_and_large_bodies_end_at_the_proxy(proxy: str) -> None:
    file = {"file": ("a.json", json.dumps(BODY), "application/json")}
    for form in ({"data": {"a": "1"}}, {"files": file}, {"files": file, "data": {"a": "1"}}):
        answer = requests.post(f"{proxy}/predictions/tiny", timeout=60, **form)
        assert (answer.status_code, answer.text[:12]) == (415, "no web forms")
    url = urlsplit(proxy)
    two_types = (
        b"Content-Type: Multipart/Form-Data; boundary=x\r\nContent-Type: application/json\r\nContent-Length: 0\r\n"
    )
    with socket.create_connection((url.hostname, url.port), timeout=60) as client:
        client.sendall(b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\n" + two_types + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 415 ")
    with socket.create_connection((url.hostname, url.port), timeout=60) as client:
        client.sendall(b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")  # without a byte of the body


def test_half_a_request_is_not_waited_for(proxy: str) -> None:
    url = urlsplit(proxy)
    with socket.create_connection((url.hostname, url.port), timeout=60) as client:
        client.sendall(b"POST /predictions/tiny HTTP/1.1\r\nHost:")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_deadlines_count_the_time_in_the_queue(proxy: str, slow_server: RunningServer) -> None:
    num_requests, num_in_time = 12, 6  # far apart: a machine that stalls for a second decides nothing

    def answers(base: str) -> Counter[tuple[int, str]]:
        def post(_: int) -> tuple[int, str]:
            headers = {"X-Request-Deadline-Ms": str(round(num_in_time * FORWARD_S * 1000))}
            answer = requests.post(f"{base}/predictions/tiny", json=BODY, headers=headers, timeout=60)
            return answer.status_code, answer.text if answer.status_code != 200 else ""

        with ThreadPoolExecutor(num_requests) as pool:
            return Counter(pool.map(post, range(num_requests)))

    for base in (slow_server.inference_url, proxy):  # the frontend stamps what no proxy has
        found = answers(base)
        assert {status for status, _ in found} == {200, 504}, found
