"""The experts' servers: what is tried and chosen, how goodput is found, the open loop, engines as right as PyTorch."""

from __future__ import annotations

import argparse
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from smartbatch_load.capacity.files import Rung
from smartbatch_load.load.openloop import Shot, Volley
from smartbatch_worker.forward import precision

from bench import backends, cells, processes, report
from bench.cells import Cell
from bench.experts import export, goodput, run, search
from bench.figures import peer_tables
from bench.judge import Judge
from bench.load import Body
from bench.open_loop import OpenLoop
from bench.servers import expert
from bench.work import Work
from tests.many_connections import ManyConnections

SETUP = expert.Setup(
    engine="openvino",
    precision="fp32",
    folder="",
    processes=2,
    threads=1,
    decoders=0,
    batch_size=32,
    micro_batch=8,
)


def trial(number: int, many: float, few: float, p95_ms: float) -> search.Trial:
    return search.Trial(
        setup={"batch_size": number},
        backend=f"mosec/try_{number}",
        model=f"try_{number}",
        requests_per_s=many,
        p95_ms=900.0,
        objective_connections=16,
        objective_requests_per_s=few,
        objective_p95_ms=p95_ms,
    )


def judge_of(tmp_path: Path, **args: Any) -> Judge:
    settings = argparse.Namespace(**{"rounds": 1, "seconds": 1.0, "connections": 4, "quick": False, **args})
    return Judge(settings, Work(tmp_path), lambda judge: None)


class Answers(BaseHTTPRequestHandler):
    """Answers, refuses, or hangs up, as the path says."""

    protocol_version = "HTTP/1.1"
    received: list[bytes]

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        what = self.path.strip("/")
        if what == "broken":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = b'{"class": 1}'
        self.send_response(503 if what == "refused" else 200)
        if what == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"c\r\n" + body + b"\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    Answers.received = []
    server = ManyConnections(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("what", ["ok", "chunked"])
def test_every_request_leaves_whole_and_in_turn_and_its_answer_counts(host: str, what: str) -> None:
    bodies = (b"a" * 3_000_000, b"b")  # the first is more than a socket takes at once
    volley = OpenLoop(f"{host}/{what}", Body("image/jpeg", bodies)).fire([0.0, 0.0, 0.01, 0.02], max_outstanding=10)
    assert sorted(map(len, Answers.received)) == [1, 1, 3_000_000, 3_000_000]
    assert [(shot.ok, shot.status) for shot in volley.shots] == [(True, 200)] * 4
    assert (volley.planned, volley.backlogged) == (4, False)
    assert all(shot.intended_s <= shot.sent_s <= shot.ended_s for shot in volley.shots)


@pytest.mark.parametrize(
    ("what", "status", "error"), [("refused", 503, "HTTP 503"), ("broken", 0, "connection closed")]
)
def test_what_is_no_answer_has_failed(host: str, what: str, status: int, error: str) -> None:
    volley = OpenLoop(f"{host}/{what}", Body("image/jpeg", (b"x",))).fire([0.0, 0.01, 0.02], max_outstanding=10)
    assert [(shot.ok, shot.status) for shot in volley.shots] == [(False, status)] * 3
    assert {shot.error for shot in volley.shots} <= {error, "ConnectionResetError"}


def test_a_server_that_does_not_answer_is_given_up_and_one_that_is_gone_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        volley = OpenLoop(url, Body("image/jpeg", (b"x",))).fire([0.0, 0.0], max_outstanding=10, timeout_s=0.2)
        assert [shot.error for shot in volley.shots] == ["no answer in time"] * 2
        volley = OpenLoop(url, Body("image/jpeg", (b"x",))).fire([0.0] * 5, max_outstanding=2, timeout_s=0.2)
        assert (volley.backlogged, len(volley.shots), volley.planned) == (True, 2, 5)
    volley = OpenLoop(url, Body("image/jpeg", (b"x",))).fire([0.0], max_outstanding=10)
    assert [shot.error for shot in volley.shots] == ["ConnectionRefusedError"]


def test_a_process_a_core_and_one_for_all_cores_are_tried_with_each_batch_size() -> None:
    tried = search.candidates("LitServe", SETUP, 4, quick=False)
    assert [(each.processes, each.threads, each.batch_size) for each in tried] == [
        (4, 1, 8), (4, 1, 16), (4, 1, 32), (1, 4, 8), (1, 4, 16), (1, 4, 32),
    ]  # fmt: skip
    assert all(each.micro_batch <= min(8, each.batch_size) for each in tried)
    assert [each.decoders for each in search.candidates("mosec", SETUP, 4, quick=False)] == [0] * 6 + [4] * 3
    assert len(search.candidates("mosec", SETUP, 4, quick=True)) == 2
    assert {each.processes for each in search.candidates("BentoML", SETUP, 1, quick=False)} == {1}


def test_the_objective_is_kept_first_and_then_the_rate_counts() -> None:
    slow, steady, lazy = trial(32, 120, 110, 400), trial(8, 90, 85, 240), trial(4, 80, 70, 100)
    assert search.by_throughput([slow, steady, lazy]) is slow
    assert search.by_objective([slow, steady, lazy]) is steady
    assert search.by_objective([slow, trial(16, 110, 100, 300)]).setup == {"batch_size": 16}
    assert [search.objective_connections(rate) for rate in (1, 100, 10_000)] == [4, 15, 64]


def rung(rate: float, ok: bool) -> Rung:
    return Rung(
        rate=rate, ok=ok, reason="" if ok else "p95 300 ms", requests=100, errors=0, achieved_rps=rate, p50_s=0.1,
        p95_s=0.2 if ok else 0.3, p99_s=0.3, max_s=0.4, avg_batch_size=None, lag_p95_s=0.001, generator_limited=False,
    )  # fmt: skip


def test_goodput_is_found_within_its_tolerance_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knees = {"SmartBatch": 130.0, "mosec": 50.0, "BentoML": 0.01}
    asked: list[str] = []

    def probe(judge: Judge, backend: object, cell: Cell, rate: float, seconds: float, seed: int) -> Rung:
        asked.append(cell.title)
        return rung(rate, rate <= knees[cell.title])

    monkeypatch.setattr(goodput, "probe", probe)
    judge = judge_of(tmp_path)
    contestants = [Cell(title, title, "", "jpeg375", "goodput") for title in knees]
    for cell in contestants:
        judge.running[cell.backend] = cast(backends.Backend, SimpleNamespace())
        judge.samples[cell.key] = []
    goodput.measure(judge, contestants, {cell.key: 100.0 for cell in contestants}, 1.0)
    found = {cell.title: judge.goodput[cell.key]["requests_per_s"] for cell in contestants}
    assert found["BentoML"] is None
    for title in ("SmartBatch", "mosec"):
        assert knees[title] / (1 + goodput.TOLERANCE) <= found[title] <= knees[title]
    assert all(set(asked[start : start + 3]) == set(knees) for start in range(0, 9, 3))


def test_answers_of_the_first_second_do_not_count() -> None:
    shots = [Shot(at, at, at + 1, True, 200, 0, "") for at in (0.0, 0.5, 1.0, 1.5)]
    kept = goodput.after_ramp_up(Volley(shots=shots, planned=4, backlogged=False))
    assert [shot.intended_s for shot in kept.shots] == [1.0, 1.5]


@pytest.fixture
def expert_cells() -> list[Cell]:
    return [cell for cell in cells.CELLS if cell.table in cells.EXPERT_TABLES]


def test_what_this_processor_cannot_do_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_of(tmp_path)
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"})
    assert judge.measurable(cells.CELLS) == list(cells.CELLS)
    assert judge.skipped == {}
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx2"})
    measured = judge.measurable(cells.CELLS)
    left_out = {cell.key for cell in cells.CELLS if cell.title.endswith("bf16")}
    assert set(judge.skipped) == left_out == {cell.key for cell in cells.CELLS if cell not in measured}
    assert len(left_out) == 14
    assert set(judge.skipped.values()) == {"this processor has no bf16 instructions"}


class Kept(backends.TorchServe):
    """A server that notes what it is told."""

    def __init__(self) -> None:
        self.pid = 0
        self.told: list[str] = []

    def unregister(self, model: str) -> None:
        self.told.append(f"unregister {model}")

    def stop(self) -> None:
        self.told.append("stop")


def test_a_quick_run_keeps_what_is_warm_from_table_to_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pause", "resume"):
        monkeypatch.setattr(processes, name, lambda pid: None)
    for quick in (False, True):
        judge = judge_of(tmp_path, quick=quick)
        own, peer = Kept(), Kept()
        judge.running |= {"smartbatch": own, "mosec/documented": peer}
        judge.end_table()
        judge.drop_models()
        assert peer.told == ["stop"]
        assert own.told == (["unregister smartbatch"] if quick else ["stop"])
        assert set(judge.running) == ({"smartbatch"} if quick else set())
        judge.end_all()
        assert own.told[-1] == "stop"
        assert not judge.running


def test_each_cell_has_the_server_that_was_chosen_for_it(
    tmp_path: Path, expert_cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server for both tables where the same setup is the best for both; a model where the server has several."""
    judge = judge_of(tmp_path)
    prepared: list[list[Cell]] = []

    def prepare(placed: list[Cell]) -> None:
        prepared.append(placed)
        for cell in placed:
            judge.running.setdefault(cell.backend, cast(backends.Backend, SimpleNamespace()))

    monkeypatch.setattr(judge, "prepare", prepare)
    monkeypatch.setattr(judge, "measure_rounds", lambda placed: None)
    monkeypatch.setattr(goodput, "measure", lambda judge, placed, closed_loop, seconds: None)
    contest = run.Contest(judge, [cell for cell in expert_cells if not cell.title.endswith("bf16")])
    judge.running |= {key: Kept() for key in ("smartbatch", "TorchServe/experts")}
    for cell in contest._cells:
        size = 32 if cell.table == "expert" or cell.title == "BentoML" else 8
        setup = {key: getattr(SETUP, key) for key in expert.Setup.__slots__} | {"batch_size": size}
        place = {"SmartBatch": "smartbatch", "TorchServe": "TorchServe/experts"}.get(
            cell.title, f"{cell.title}/try_{size}"
        )
        contest._chosen[cell.key] = search.Trial(
            setup=setup, backend=place, model=f"try_{size}", requests_per_s=90, p95_ms=1, objective_connections=4,
            objective_requests_per_s=80, objective_p95_ms=1,
        )  # fmt: skip
        judge.running.setdefault(place, cast(backends.Backend, SimpleNamespace()))
    tried = dict(judge.running)
    contest.measure()
    throughput, rates = ({cell.title: (cell.backend, cell.model) for cell in placed} for placed in prepared)
    assert throughput["SmartBatch"] == ("smartbatch", "try_32")
    assert rates["TorchServe"] == ("TorchServe/experts", "try_8")
    assert (throughput["mosec"][0], rates["mosec"][0]) == ("mosec/expert fp32", "mosec/goodput fp32")
    assert rates["BentoML"][0] == throughput["BentoML"][0] == "BentoML/expert fp32"
    assert judge.running["mosec/expert fp32"] is tried["mosec/try_32"]
    assert judge.running["mosec/goodput fp32"] is tried["mosec/try_8"]
    assert set(map(id, judge.running.values())) == set(map(id, tried.values()))


class Tiny(torch.nn.Module):
    """[N, 3, 224, 224] to [N, 3]."""

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return planes.mean((2, 3)) + 0.1 * planes[:, :, 0, 0]


@pytest.mark.parametrize("engine", ["openvino"])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_answers_as_pytorch_whatever_the_number_of_images(engine: str, threads: int, tmp_path: Path) -> None:
    pytest.importorskip(engine)

    def model(dtype: torch.dtype) -> export.OfPixels:
        return export.OfPixels(Tiny(), dtype).eval()

    write, file = export.EXPORTS[engine]
    write(model, tmp_path)
    assert (tmp_path / file).exists()
    setup = {key: getattr(SETUP, key) for key in expert.Setup.__slots__}
    setup |= {"engine": engine, "folder": str(tmp_path), "threads": threads, "micro_batch": 2}
    forward: Callable[[np.ndarray], np.ndarray] = expert.ENGINES[engine](expert.Setup(**setup))
    for count in (1, 2, 3, 5):
        images = np.random.default_rng(count).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
        with torch.inference_mode():
            wanted = model(torch.float32)(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(forward(images), wanted, atol=2e-5)


def test_a_jpeg_is_the_middle_of_the_picture() -> None:
    pytest.importorskip("simplejpeg")
    pytest.importorskip("cv2")
    from bench.images import jpeg
    from bench.servers.documented import to_tensor

    image = expert.decode(jpeg(375, 500, 3))
    assert (image.shape, image.dtype.name) == ((224, 224, 3), "uint8")
    (found,) = export.OfPixels(torch.nn.Identity(), torch.float32)(torch.from_numpy(image[None]))
    assert float((found - to_tensor(jpeg(375, 500, 3))).abs().mean()) < 0.1


def test_report_and_pages_show_the_experts_where_they_were_measured(tmp_path: Path) -> None:
    told = trial(8, 90, 85, 240).told() | {
        "setup": {"processes": 2, "threads": 1, "decoders": 2, "batch_size": 8, "micro_batch": 8}
    }
    chosen = {"expert": told, "goodput": told, "tried": [told, told]}
    keys = {title: f"expert:{title}:jpeg375" for title in ("SmartBatch", "mosec")}
    sample = {
        "requests_per_s": 40.0,
        "p95_ms": 9.0,
        "num_failed": 0,
        "generator_cpu_share": 0.01,
        "server_cpu_ms": 25.0,
    }
    rates = {keys["SmartBatch"]: 100.0, keys["mosec"]: 40.0}
    knees = {f"goodput:{title}:jpeg375": rate for title, rate in (("SmartBatch", 80.0), ("mosec", 60.0))}
    machine = dict.fromkeys(("processor", "family_model", "memory_gb", "system", "python", "torch"), "x")
    machine |= {"cores": "2", "load_average_1m_before": "0", "instructions": "avx2"}
    ratios = cells.ratios(rates | knees)
    peers = {
        "machine": machine,
        "settings": {"rounds": 1, "seconds": 5.0, "connections": 64, "overrides": [], "bare_micro_batch": None},
        "ratios": ratios,
        "ratios_of_cpu_time": cells.ratios({}),
        "images_per_s": rates,
        "samples": {key: [sample] for key in rates},
        "goodput": {key: {"requests_per_s": rate, "rungs": [vars_of(rung(rate, True))]} for key, rate in knees.items()},
        "setups": {
            "fp32": {"engine": "openvino", "micro_batch": 8, "engines": {"openvino": {"8": 90.0}}, "mosec": chosen}
        },
        "memory_mb": {},
        "skipped": {},
    }
    text = report.markdown(peers)
    assert "## As an expert writes each" in text
    assert "| mosec | 60.0 | 200 | 1 | 1.0 |" in text
    assert "- mosec: for images/s 2 × 1 threads, batches of 8, 2 processes that decode" in text
    assert "| expert_fp32 | 2.50 | not measured | 2.0 |" in text
    report.plot(peers, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 1000
    rows = peer_tables.ratios({"peers": peers})
    assert "| the best peer as an expert writes it (mosec), 375×500 JPEG, fp32 | **2.50** | – | 2 | met |" in rows
    assert "(mosec): random arrivals a second at p95 ≤ 250 ms, fp32 | **1.33** | – | 1.5 | **missed** |" in rows
    assert "bf16" not in rows
    assert "mosec, the best as an expert writes it" in peer_tables.summary({"peers": peers})


def vars_of(one: Rung) -> dict[str, Any]:
    """As peers.json has it."""
    return {name: getattr(one, name) for name in Rung.__slots__}


def test_with_amx_the_experts_have_the_fastest_forward_too() -> None:
    assert report.wanted("expert_bf16", {"instructions": "avx512f avx512_bf16"}) == 1.4
    assert report.wanted("expert_bf16", {"instructions": "avx512_bf16 amx_bf16"}) == 1.0
    assert report.wanted("fastapi_json_bf16", {"instructions": ""}) is None
