"""Each illness is found in the figures that show it, and none in a healthy server's."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from smartbatch.doctor.evidence import Evidence, ServerEvidence
from smartbatch.doctor.finding import Severity
from smartbatch.doctor.illnesses import OF_MODELS, OF_SERVERS
from smartbatch.doctor.processes import CpuSeconds, Memory
from smartbatch.doctor.report import examine
from smartbatch.doctor.surroundings import changed_properties, proxy_before, proxy_of_clients
from smartbatch.remote.model_status import ModelStatus, WorkerStatus
from smartbatch.watch.rates import ModelView

PAGE = Path(__file__).parents[4] / "docs" / "doctor.md"
SERVER = ServerEvidence(is_mended=True, cores=2, token_auth=False, open_addresses=())
DESCRIBED: Any = {
    "loaded": True,
    "device": "cpu",
    "measuring": False,
    "threads": 2,
    "pid": 1,
    "micro_batch": {"4": 8},
    "micro_batch_ms_per_item": {"4": {"1": 10.0, "2": 7.0, "4": 5.0, "8": 4.0}},
    "config": {"threads": "auto", "micro_batch": "auto", "image_resize": None, "inputs": None},
}


def worker(status: str = "READY") -> WorkerStatus:
    return WorkerStatus(id="9000", pid=1, status=status, gpu=False, started="")


# 16 clients, batches of 8 in 37 ms.
HEALTHY = Evidence(
    model="m",
    seconds=10.0,
    is_since_start=False,
    status=ModelStatus(
        model_name="m",
        version="1.0",
        url="m.mar",
        batch_size=8,
        max_batch_delay_ms=10,
        min_workers=1,
        max_workers=1,
        response_timeout_s=120,
        workers=(worker(),),
        pending_requests=8,
        queue_remaining=992,
        customized=None,
    ),
    workers=(DESCRIBED,),
    view=ModelView(
        model="m",
        rps=200.0,
        errors_per_s=0.0,
        batches_per_s=25.0,
        avg_batch_size=8.0,
        batch_sizes={"8": 1.0},
        avg_forward_size=8.0,
        queue_depth=8.0,
        p50_s=0.080,
        p95_s=0.085,
        stage_s={"decode": 0.002, "stack": 0.001, "forward": 0.033, "encode": 0.001},
        measuring_workers=0,
        total_requests=2000,
        total_batches=250,
    ),
    mean_s=0.080,
    queue_s=0.040,
    statuses={"200": 2000.0},
    rejected={},
    restarts=0.0,
    weights_random=False,
    items_per_request=1.0,
    cpu=CpuSeconds(workers=16.0, frontend=2.0, own=0.1),
    last_error=None,
    num_clients=None,
    server=SERVER,
)


def memory_of(num_forked: int, num_sharing: int = 0, own_mb: int = 450) -> Memory:
    own = (own_mb * 1_000_000,) * 2
    return Memory(pss_bytes=sum(own) + 200_000_000, own_bytes=own, num_forked=num_forked, num_sharing=num_sharing)


def with_view(evidence: Evidence = HEALTHY, **changed: Any) -> Evidence:
    return replace(evidence, view=replace(evidence.view, **changed))


def registered(evidence: Evidence = HEALTHY, **changed: Any) -> Evidence:
    return replace(evidence, status=replace(evidence.status, **changed))


def configured(**changed: Any) -> Evidence:
    described: Any = {**DESCRIBED, "config": {**DESCRIBED["config"], **changed}}
    return replace(HEALTHY, workers=(described,))


def measured(ms_per_item: Mapping[str, float]) -> Evidence:
    described: Any = {**DESCRIBED, "micro_batch_ms_per_item": {"4": ms_per_item}}
    return replace(HEALTHY, workers=(described,))


LONE = replace(
    with_view(
        registered(batch_size=32, max_batch_delay_ms=50),
        rps=14.0,
        batches_per_s=14.0,
        avg_batch_size=1.0,
        avg_forward_size=1.0,
        p50_s=0.070,
        p95_s=0.072,
        stage_s={"decode": 0.001, "stack": 0.0, "forward": 0.010, "encode": 0.0},
    ),
    mean_s=0.070,
    queue_s=0.051,
    cpu=CpuSeconds(workers=2.0, frontend=1.0, own=0.1),
)
FOUR_CLIENTS = replace(
    with_view(
        registered(batch_size=32, max_batch_delay_ms=50),
        rps=54.0,
        batches_per_s=13.5,
        avg_batch_size=4.0,
        avg_forward_size=4.0,
        p50_s=0.074,
        p95_s=0.078,
        stage_s={"decode": 0.001, "stack": 0.0, "forward": 0.020, "encode": 0.0},
    ),
    mean_s=0.074,
    queue_s=0.051,
    cpu=CpuSeconds(workers=5.0, frontend=2.0, own=0.1),
)
ONE_BY_ONE = replace(
    with_view(
        registered(batch_size=1),
        rps=90.0,
        batches_per_s=90.0,
        avg_batch_size=1.0,
        avg_forward_size=1.0,
        p50_s=0.175,
        p95_s=0.18,
        stage_s={"decode": 0.0003, "stack": 0.0001, "forward": 0.0105, "encode": 0.0001},
    ),
    mean_s=0.175,
    queue_s=0.163,
)
FLAT = {"1": 10.0, "2": 9.9, "4": 9.8, "8": 9.7}

ILL = {
    "no-worker": registered(workers=(), min_workers=0),
    "crash-loop": replace(
        registered(workers=(worker("UNLOADING"),)), restarts=3.0, last_error="RuntimeError: no weights"
    ),
    "random-weights": replace(HEALTHY, weights_random=True),
    "answers-fail": replace(HEALTHY, workers=(), statuses={"200": 1000.0, "503": 1000.0}),
    "queue-too-short": replace(
        registered(pending_requests=4, queue_remaining=4),
        rejected={"overloaded": 500.0},
        statuses={"200": 1500.0, "503": 500.0},
    ),
    "queue-over-heap": replace(HEALTHY, held_bytes=16 * 3e6, most_held_bytes=500e6),
    "overloaded": replace(HEALTHY, rejected={"overloaded": 500.0}, statuses={"200": 1500.0, "503": 500.0}),
    "near-timeout": registered(response_timeout_s=0, batch_size=8),
    "batch-of-one": ONE_BY_ONE,
    "delay-zero": registered(max_batch_delay_ms=0),
    "delay-for-nobody": LONE,
    "batch-never-filled": FOUR_CLIENTS,
    "forwards-of-one": with_view(configured(micro_batch=1), avg_forward_size=1.0),
    "handler-waits": replace(HEALTHY, queue_s=0.060, cpu=CpuSeconds(workers=1.0, frontend=1.0, own=0.1)),
    "threads-over-cores": replace(configured(threads=2), status=replace(HEALTHY.status, workers=(worker(), worker()))),
    "workers-over-cores": registered(workers=(worker(),) * 4),
    "decode-bound": with_view(stage_s={"decode": 0.030, "stack": 0.001, "forward": 0.005, "encode": 0.001}),
    "response-bound": with_view(stage_s={"decode": 0.002, "stack": 0.001, "forward": 0.004, "encode": 0.030}),
    "batching-cannot-help": measured(FLAT),
    "memory-copies": replace(HEALTHY, memory=memory_of(num_forked=2)),
    "config-beaten": replace(HEALTHY, changed_properties={"job_queue_size": 100, "default_response_timeout": 120}),
}
ILL["near-timeout"] = with_view(
    registered(response_timeout_s=2),
    batches_per_s=0.8,
    rps=6.4,
    stage_s={"decode": 0.0, "stack": 0.0, "forward": 1.2, "encode": 0.0},
)


def test_nothing_is_found_on_a_healthy_server() -> None:
    report = examine([HEALTHY])
    assert report.findings == []
    assert report.exit_code == 0
    assert "m is healthy." in report.text()
    assert report.as_dict()["healthy"] is True


@pytest.mark.parametrize("name", ILL)
def test_an_illness_is_the_first_thing_found(name: str) -> None:
    report = examine([ILL[name]])
    assert [finding.illness for finding in report.findings][:1] == [name]
    finding = report.findings[0]
    assert report.exit_code == {Severity.NOTE: 0, Severity.SLOW: 8, Severity.FAILING: 9}[finding.severity]
    assert finding.cure in report.text()


def test_on_a_gpu_jpegs_are_to_be_read_there() -> None:
    bound = with_view(stage_s={"decode": 0.030, "stack": 0.001, "forward": 0.005, "encode": 0.001})

    def cure(device: str, decoder: str, resize: int | None = 256) -> str:
        config = {**DESCRIBED["config"], "image_resize": resize, "image_decoder": decoder}
        described: Any = {**DESCRIBED, "device": device, "config": config}
        return examine([replace(bound, workers=(described,))]).findings[0].cure

    assert cure("cuda:0", "cpu").startswith("smartbatch retune m --set image_decoder=gpu")
    for others in (cure("cpu", "cpu"), cure("cuda:0", "gpu"), cure("cuda:0", "cpu", None)):
        assert "image_decoder" not in others


def test_every_illness_is_made_by_a_test_and_explained() -> None:
    assert set(OF_MODELS) == set(ILL)
    explained = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(explained) == sorted([*OF_MODELS, *OF_SERVERS, "settings"])


@pytest.mark.parametrize(
    ("evidence", "figure"),
    [(LONE, "p50, ms"), (FOUR_CLIENTS, "p50, ms"), (ONE_BY_ONE, "requests/s")],
    ids=["a lone client", "four clients", "one by one"],
)
def test_a_gain_is_predicted_with_its_interval(evidence: Evidence, figure: str) -> None:
    gain = examine([evidence]).findings[0].gain
    assert gain is not None
    assert gain.figure == figure
    assert gain.low < gain.after < gain.high
    if figure == "requests/s":
        assert gain.after > 1.5 * gain.before  # 10 ms an item alone, 4 in eights
    else:
        assert gain.after < gain.before - 30  # of the 50 ms that nobody came in


def test_a_command_names_the_server_that_was_asked() -> None:
    cure = examine([LONE], "--inference-port 9080").findings[0].cure
    assert cure == "smartbatch retune m --max-delay-ms 1 --inference-port 9080"


def test_batches_of_one_are_no_illness_where_batching_cannot_help() -> None:
    flat = replace(ONE_BY_ONE, workers=measured(FLAT).workers)
    assert [finding.illness for finding in examine([flat]).findings] == ["batching-cannot-help"]


def test_where_nothing_is_known_of_batches_no_gain_is_promised() -> None:
    unknown = replace(ONE_BY_ONE, workers=measured({}).workers)
    (finding,) = examine([unknown]).findings
    assert (finding.illness, finding.gain) == ("batch-of-one", None)


def test_another_handler_is_judged_by_what_the_frontend_knows() -> None:
    foreign = replace(
        with_view(avg_batch_size=None, avg_forward_size=None, stage_s={}, batches_per_s=0.0),
        workers=(),
        cpu=None,
        items_per_request=None,
    )
    assert examine([foreign]).findings == []
    assert [f.illness for f in examine([registered(foreign, batch_size=1)]).findings] == ["batch-of-one"]


def test_an_open_port_without_tokens_is_found() -> None:
    server = replace(SERVER, open_addresses=("http://0.0.0.0:8081",))
    (finding,) = examine([replace(HEALTHY, server=server)]).findings
    assert (finding.illness, finding.model, finding.severity) == ("no-tokens", None, Severity.FAILING)


def test_a_stock_frontend_is_a_note() -> None:
    report = examine([replace(HEALTHY, server=replace(SERVER, is_mended=False))])
    assert [finding.illness for finding in report.findings] == ["stock-frontend"]
    assert report.exit_code == 0
    assert "m is healthy." in report.text()


def test_bodies_that_fill_the_frontend_are_told_from_a_queue_that_is_full() -> None:
    large = ILL["queue-over-heap"]
    (note,) = examine([large]).findings
    assert note.cure == "smartbatch retune m --set jobQueueSize=166"  # 500 MB in bodies of 3 MB
    refusing = replace(large, rejected={"overloaded": 500.0}, statuses={"200": 1500.0, "503": 500.0})
    first = examine([refusing]).findings[0]
    assert (first.illness, first.severity) == ("queue-over-heap", Severity.FAILING)
    assert examine([replace(large, most_held_bytes=4e9)]).findings == []
    assert examine([replace(large, held_bytes=16 * 500.0, most_held_bytes=1e4)]).findings == [], "small bodies"


def test_what_config_properties_was_changed_to_is_told_where_it_does_not_hold() -> None:
    (finding,) = examine([ILL["config-beaten"]]).findings
    assert finding.cure == "smartbatch retune m --set jobQueueSize=100"
    assert "default_response_timeout" not in finding.evidence, "that one holds"


def test_workers_that_share_all_they_can_are_left_alone() -> None:
    started_anew = examine([replace(HEALTHY, memory=memory_of(num_forked=0, num_sharing=2))]).findings[0]
    assert "started anew" in started_anew.evidence
    for memory in (memory_of(num_forked=2, num_sharing=2), memory_of(num_forked=0, own_mb=50)):
        assert examine([replace(HEALTHY, memory=memory)]).findings == []


@pytest.mark.parametrize(
    ("environment", "is_found"),
    [
        ({"http_proxy": "http://10.0.0.1:3128"}, True),
        ({"ALL_PROXY": "socks5://10.0.0.1:1080"}, True),
        ({"http_proxy": "http://10.0.0.1:3128", "no_proxy": "localhost,127.0.0.1"}, False),
        ({"https_proxy": "http://10.0.0.1:3128"}, False),
        ({}, False),
    ],
)
def test_a_proxy_of_the_environment_is_a_hop(
    environment: dict[str, str], is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_of_clients("http://127.0.0.1:8080")
    assert (found is not None) == is_found
    server = replace(SERVER, proxies=() if found is None else (found,))
    report = examine([replace(HEALTHY, server=server)])
    assert [finding.illness for finding in report.findings] == (["proxy-hop"] if is_found else [])
    assert report.exit_code == 0
    if is_found:
        assert "no_proxy=127.0.0.1" in report.findings[0].cure


@pytest.mark.parametrize("marks", [{}, {"Via": "1.1 front"}], ids=["the server itself", "through a proxy"])
def test_a_proxy_shows_in_its_headers(marks: dict[str, str]) -> None:
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            for name, value in {**marks, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        found = proxy_before(url, True)
        server.shutdown()
    assert (found is not None) == bool(marks)
    assert found is None or "`Via: 1.1 front`" in found
    assert proxy_before("http://127.0.0.1:1", True) is None, "nothing answers"


def test_what_config_properties_says_otherwise_than_the_one_shipped(tmp_path: Path) -> None:
    shipped = (PAGE.parents[1] / "config.properties").read_text(encoding="utf-8")
    assert changed_properties(None) == {}
    assert changed_properties(tmp_path) == {}, "a server that was started elsewhere"
    (tmp_path / "config.properties").write_text(shipped)
    assert changed_properties(tmp_path) == {}
    (tmp_path / "config.properties").write_text(f"{shipped}\njob_queue_size=7\n")
    assert changed_properties(tmp_path) == {"job_queue_size": 7}
