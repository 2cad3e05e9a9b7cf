"""What a server answers about itself, and who may manage it: health, Open Inference metadata, owner, gRPC."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
import requests
from smartbatch.server.running import RunningServer
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.conftest import StartServer

ROOT = Path(__file__).parents[3]
NOBODY = 65534
BODY = b'{"data": [1, 2, 3, 4]}'
OIP = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"

pytestmark = pytest.mark.mended


@pytest.fixture(scope="module")
def server(start: StartServer, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    """One worker of `tiny`; TorchServe's own Open Inference handlers are on, and ours stand before them; no page.

    Its log tells how long TorchServe waits before it starts a worker again.
    """
    logging = tmp_path_factory.mktemp("config") / "log4j2.xml"
    text = (ROOT / "config" / "log4j2.xml").read_text(encoding="utf-8")
    more = '<Logger name="org.pytorch.serve.wlm.WorkerThread" level="info"/>'
    logging.write_text(text.replace("<Loggers>", f"<Loggers>{more}"), encoding="utf-8")
    return start(
        tiny_workers=1,
        properties={"ts_open_inference_protocol": "true"},
        env={"SMARTBATCH_UI": "off"},
        vm_args=[f"-Dlog4j.configurationFile={logging}"],
    )


def worker_pid(server: RunningServer) -> int:
    with server.management() as client:
        (worker,) = client.describe("tiny").workers
    return worker.pid


def get(url: str, path: str, **headers: str) -> requests.Response:
    parts = urlsplit(url)
    return requests.get(f"{parts.scheme}://{parts.netloc}{path}", headers=headers, timeout=60)


def test_health_on_both_ports_and_by_head(server: RunningServer) -> None:
    for url in (server.inference_url, server.metrics_url):
        assert get(url, "/livez").json() == {"live": True}
        ready = get(url, "/readyz")
        assert ready.json() == {
            "ready": True,
            "models": {"tiny": {"version": "1.0", "ready": True, "min_workers": 1}},
        }
        assert requests.head(ready.url, timeout=60).headers["content-length"] == str(len(ready.content))
    assert requests.post(f"{server.inference_url}/readyz", timeout=60).status_code == 404
    assert get(server.inference_url, "/ping").json() == {"status": "Healthy"}


def test_an_unmodified_triton_client(server: RunningServer) -> None:
    client = InferenceServerClient(urlsplit(server.inference_url).netloc)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata()["name"] == "smartbatch"
        for version in ("", "1.0"):
            assert client.is_model_ready("tiny", version)
            assert client.get_model_metadata("tiny", version) == {
                "name": "tiny",
                "versions": ["1.0"],
                "platform": "pytorch",
                "inputs": [{"name": "data", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "result", "datatype": "FP32", "shape": [-1, 4]}],
            }
        for name, version in (("nope", ""), ("tiny", "2.0")):
            assert not client.is_model_ready(name, version)
            with pytest.raises(InferenceServerException, match=f"not found: model {name}"):
                client.get_model_metadata(name, version)
        with pytest.raises(InferenceServerException, match="not found: /v2/models/tiny/config"):
            client.get_model_config("tiny")
    finally:
        client.close()


def test_the_page_can_be_off(server: RunningServer) -> None:
    for path in ("/ui", "/ui/", "/ui/page.js", "/ui/metrics", "/ui/metrics?name[]=smartbatch_workers"):
        assert get(server.inference_url, path).status_code == 404, path
    assert get(server.inference_url, "/openapi.json").json()["info"]["title"] == "SmartBatch"
    with server.management() as client:
        assert client.frontend()["page"] is False


def test_status_says_what_is_mended(server: RunningServer) -> None:
    with server.management() as client:
        frontend = client.frontend()
    assert frontend["frontend"] == "mended"
    assert set(frontend["classes"].values()) == {"mended"}
    assert get(server.inference_url, "/frontend").status_code == 404


def test_pages_and_other_names_are_refused(server: RunningServer) -> None:
    assert get(server.management_url, "/models").status_code == 200
    for code, headers in (
        ("foreign_origin", {"Origin": "https://page.example"}),
        ("foreign_origin", {"Sec-Fetch-Site": "cross-site"}),
        ("foreign_host", {"Host": "rebound.example:8081"}),
    ):
        refused = get(server.management_url, "/models", **headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)
    posted = requests.post(
        f"{server.management_url}/models?url=tiny.mar&model_name=stolen",
        data=b"x" * 100_000,
        headers={"Origin": "null"},
        timeout=60,
    )
    assert posted.status_code == 403
    with server.management() as client:
        assert [model.model_name for model in client.models()] == ["tiny"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Sockets made meanwhile belong to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def nobodys(url: str) -> http.client.HTTPConnection:
    host, port = urlsplit(url).netloc.split(":")
    client = http.client.HTTPConnection(host, int(port), timeout=60)
    with as_nobody():
        client.sock = socket.socket()
        client.sock.connect((host, int(port)))
    return client


def test_another_user_may_ask_and_not_manage(server: RunningServer) -> None:
    client = nobodys(server.management_url)
    for _ in range(2):  # of one connection
        client.request("GET", "/models")
        answer = client.getresponse()
        assert answer.status == 403
        assert f"user {NOBODY} may not manage" in json.loads(answer.read())["error"]["message"]
    client.close()
    asking = nobodys(server.inference_url)
    asking.request("POST", "/predictions/tiny", BODY)
    assert json.loads(asking.getresponse().read()) == {"result": [3, 5, 7, 9]}
    asking.close()


def test_another_user_who_hangs_up_at_once_is_refused_too(server: RunningServer) -> None:
    """The kernel lists a socket that its process has closed as root's."""
    for _ in range(20):
        client = nobodys(server.management_url)
        client.sock.sendall(
            b"POST /models?url=tiny.mar&model_name=stolen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        )
        client.close()
    with server.management() as client_of_owner:
        assert [model.model_name for model in client_of_owner.models()] == ["tiny"]


def grpc_address(server: RunningServer, port: str) -> str:
    config = (server.run_dir / "config.properties").read_text()
    found = re.search(rf"^grpc_{port}_port=(\d+)$", config, re.MULTILINE)
    assert found is not None
    return f"127.0.0.1:{found[1]}"


def status_of(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code().name, error.details()


def test_grpc_predictions_end_in_a_status(server: RunningServer) -> None:
    messages, services = grpc.protos_and_services("tests/e2e/frontend/inference.proto")
    with grpc.insecure_channel(grpc_address(server, "inference")) as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def predict(model: str, body: bytes, version: str = "") -> Any:
            request = messages.PredictionsRequest(model_name=model, model_version=version, input={"data": body})
            return stub.Predictions(request, timeout=60)

        assert json.loads(predict("tiny", BODY).prediction) == {"result": [3, 5, 7, 9]}
        code, message = status_of(lambda: predict("tiny", b'{"data": [1, 2'))
        assert (code, "JSON" in message) == ("INVALID_ARGUMENT", True)
        code, message = status_of(lambda: predict("tiny", b'{"data": [1, 2, 3]}'))
        assert (code, "[4]" in message) == ("INVALID_ARGUMENT", True)
        assert status_of(lambda: predict("nope", BODY)) == ("NOT_FOUND", "Model not found: nope")
        assert status_of(lambda: predict("tiny", BODY, "9"))[0] == "NOT_FOUND"
        assert status_of(lambda: predict("", BODY))[0] == "INVALID_ARGUMENT"


def test_grpc_calls_that_no_worker_can_answer_harm_none(server: RunningServer) -> None:
    messages, services = grpc.protos_and_services("tests/e2e/frontend/inference.proto")
    before = worker_pid(server)
    with grpc.insecure_channel(grpc_address(server, "inference")) as channel, ThreadPoolExecutor(16) as pool:
        stub = services.InferenceAPIsServiceStub(channel)
        request = messages.PredictionsRequest(model_name="tiny", input={"data": BODY})
        infer = channel.unary_unary(f"/{OIP}/ModelInfer")
        calls: list[Callable[[], Any]] = [
            lambda: list(stub.StreamPredictions(request, timeout=60)),
            lambda: list(stub.StreamPredictions2(iter([request]), timeout=60)),
            lambda: infer(b"\n\x04tiny", timeout=60),  # field 1, model_name
        ]
        statuses = list(pool.map(status_of, calls * 20))
        answered = list(pool.map(lambda _: stub.Predictions(request, timeout=60).prediction, range(50)))
    assert {code for code, _ in statuses} == {"UNIMPLEMENTED"}
    assert {message for _, message in statuses} == {
        "a request has one answer here: call Predictions",
        "the Open Inference Protocol is served over HTTP, under /v2; over gRPC there is Predictions",
    }
    assert [json.loads(answer) for answer in answered] == [{"result": [3, 5, 7, 9]}] * 50
    assert worker_pid(server) == before


def test_grpc_management_is_its_owners(server: RunningServer) -> None:
    address = grpc_address(server, "management")

    def models() -> Any:
        with grpc.insecure_channel(address) as channel:
            return channel.unary_unary(f"/{MANAGEMENT}/ListModels")(b"\x08\x0a", timeout=60)  # field 1, limit: 10

    assert b"tiny" in models()
    with as_nobody():
        code, message = status_of(models)
    assert (code, f"user {NOBODY}" in message) == ("PERMISSION_DENIED", True)


def test_a_killed_worker_shows_until_another_has_the_model_loaded(server: RunningServer) -> None:
    """TorchServe starts the other at once; what forks workers stands still until all has been looked at."""
    worker = psutil.Process(worker_pid(server))
    fork_server = worker.parent()
    assert fork_server is not None
    assert "serve" in fork_server.cmdline()
    fork_server.suspend()
    try:
        worker.kill()
        deadline = time.monotonic() + 120
        while (answer := get(server.metrics_url, "/readyz")).status_code == 200:
            assert time.monotonic() < deadline
        assert answer.json()["message"] == "tiny 1.0 has no worker with its model loaded"
        assert not answer.json()["models"]["tiny"]["ready"]
        for path in ("/v2/health/ready", "/v2/models/tiny/ready"):
            assert get(server.inference_url, path).status_code == 503
        assert get(server.inference_url, "/livez").status_code == 200
    finally:
        fork_server.resume()
    while get(server.metrics_url, "/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log = server.run_dir / "logs" / "ts_log.log"
    while not (waits := re.findall(r"Retry worker: \d+ in (\d+) seconds", log.read_text(encoding="utf-8"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert waits == ["0"]
    assert requests.post(f"{server.inference_url}/predictions/tiny", BODY, timeout=60).json() == {
        "result": [3, 5, 7, 9]
    }
