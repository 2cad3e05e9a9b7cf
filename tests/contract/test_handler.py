"""The whole handler, batch by batch: whatever a row's answer, header or model does, only that row fails."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smartbatch_handler
import torch
from smartbatch.archive.context import FRONTENDS_HEADERS, Request
from smartbatch_handler import SmartBatchHandler
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.flow import recover
from smartbatch_worker.forward import managed
from smartbatch_worker.forward.later import NotMeasuredError
from smartbatch_worker.forward.managed import ManagedModel
from smartbatch_worker.torchserve import wire

from tests import golden
from tests.contract.in_process import DESCRIBE, Worker, request

Serve = Callable[..., Worker]

MODELS = """
import time
import torch


class Line(torch.nn.Module):
    def forward(self, x):
        return 2 * x + 1


class Parts(torch.nn.Module):
    def forward(self, x):
        return [x * 2, x + 1]


class ThreeRows(torch.nn.Module):
    def forward(self, x):
        return x[:3] if len(x) > 3 else x.repeat(4, 1)


class Whole(torch.nn.Module):
    def forward(self, x):
        return x.long()


class Uneven(torch.nn.Module):
    def forward(self, x):
        return [row[: int(row[0])] for row in x]


class Ids(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(100, 2)

    def forward(self, ids):
        return self.table(ids.long()).sum(1)


class Long(torch.nn.Module):
    def forward(self, x):
        return [torch.ones(int(row[0])) for row in x]


class Slow(torch.nn.Module):
    def forward(self, x):
        time.sleep(0.02)
        return x
"""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    (tmp_path / "model.py").write_text(MODELS)

    def start(
        model_class: str,
        handler: type[SmartBatchHandler] = SmartBatchHandler,
        input_shape: list[int] | None = None,
        **keys: Any,
    ) -> Worker:
        section = {"model": "model.py", "model_class": model_class, "input_shape": input_shape, "micro_batch": 8}
        return Worker(tmp_path, section | keys, handler)

    return start


def test_a_list_of_parts_is_one_answer_of_several_parts_a_row(serve: Serve) -> None:
    replies = serve("Parts").answer(*(request([float(n), 1.0]) for n in range(8)))
    assert [reply.json["result"] for reply in replies] == [[[2.0 * n, 2.0], [n + 1.0, 2.0]] for n in range(8)]


def test_who_asks_is_told_where_the_time_went_and_nobody_else(serve: Serve) -> None:
    good, bad = {"X_SmartBatch_Timing": "on"}, {"X_SmartBatch_Timing": "on", "X_Request_Start": "t=1"}
    replies = serve("Line").answer(request([1.0]), request([2.0], **good), request(b"{", **bad))
    assert [reply.status for reply in replies] == [200, 200, 400]
    assert "Server-Timing" not in replies[0].headers
    for reply in replies[1:]:
        parts = dict(part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
        assert list(parts) == ["queue", "decode", "stack", "forward"]
        assert float(parts["decode"]) > 0
        assert float(parts["forward"]) > 0
    assert "queue;dur=0.000," in replies[1].headers["Server-Timing"], "nobody said when it started"
    assert float(replies[2].headers["Server-Timing"].split(";dur=")[1].split(",")[0]) > 1e9, "it started in 1970"


def test_a_wrong_number_of_answers_fails_all_and_is_not_cut_to_fit(serve: Serve) -> None:
    worker = serve("ThreeRows")
    replies = worker.answer(*(request([float(n)]) for n in range(8)))
    assert {reply.error for reply in replies} == {(500, "model_failed")}
    assert "took 8 items and gave an output of shape [3, 1]" in replies[0].json["error"]["message"]


@pytest.mark.parametrize("position", [0, 3])
def test_a_client_that_says_describe_gets_its_prediction_as_all_others(serve: Serve, position: int) -> None:
    batch = [request([float(n)]) for n in range(4)]
    batch[position] = request([9.0], describe="True")
    replies = serve("Line").answer(*batch)
    assert [reply.status for reply in replies] == [200] * 4
    assert replies[position].json == {"result": [19.0]}


FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    "alone",
    [
        request([9.0], describe="True"),
        request(b"", describe="True"),
        Request((), {"Content-Type": FORM, "describe": "True", **FRONTENDS_HEADERS}),
        Request((), {"content-type": "text/plain", "describe": "True"}),  # the last of two types, the first a form's
        request([9.0], describe="True", explain="True", ts_stream_next="true", ts_request_sequence_id="1"),
    ],
)
def test_no_client_sees_the_workers_configuration(serve: Serve, alone: Request) -> None:
    (reply,) = serve("Line").answer(alone)
    assert reply.status in (200, 400)
    assert b"pid" not in reply.body
    assert "ts_stream_next" not in reply.headers


def test_the_management_path_still_sees_it(serve: Serve) -> None:
    worker = serve("Line", input_shape=[1], micro_batch="auto")
    worker.answer(request([1.0]))
    (reply,) = worker.answer(DESCRIBE)
    assert reply.json["config"]["model"] == "model.py"
    assert list(reply.json["micro_batch"]) == ["1"]
    golden.check("describe", golden.keys_of(reply.json | dict.fromkeys(("micro_batch", "micro_batch_ms_per_item"))))


def test_topk_of_whole_numbers_fails_its_row_alone(serve: Serve) -> None:
    topk = request([1.0, 2.0], X_SmartBatch_Output="topk")
    good, bad, after = serve("Whole").answer(request([1.0, 2.0]), topk, request([3.0, 4.0]))
    assert [good.json, after.json] == [{"result": [1, 2]}, {"result": [3, 4]}]
    assert bad.error == (400, "malformed")
    assert "floating-point score" in bad.json["error"]["message"]


def test_npy_of_several_lengths_fails_its_row_alone(serve: Serve) -> None:
    worker = serve("Uneven", input_shape=[2])
    npy = {"Accept": "application/x-npy"}
    good, bad, fine = worker.answer(
        request([[1.0, 5.0], [2.0, 6.0]]), request([[1.0, 5.0], [2.0, 6.0]], **npy), request([[2.0, 5.0]], **npy)
    )
    assert good.json == {"result": [[1.0], [2.0, 6.0]]}
    assert bad.error == (422, "model_rejected")
    assert np.load(io.BytesIO(fine.body)).tolist() == [[2.0, 5.0]]


class Touchy(SmartBatchHandler):
    """Its postprocess_item raises, or gives, what the item's first number asks for."""

    def postprocess_item(self, output: torch.Tensor) -> Any:
        number = int(output[0])
        if number == 3:
            raise KeyError("labels")
        if number == 5:
            raise RuntimeError("first\nsecond")
        deep: list[Any] = []
        for _ in range(100_000 if number == 7 else 0):
            deep = [deep]
        return {9: object(), 11: {1, 2}, 13: 1 << 70, 15: "\udcff"}.get(number, deep or number)


def test_whatever_postprocess_item_does_fails_its_row_alone(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    worker = serve("Line", Touchy)
    with caplog.at_level(logging.ERROR):
        first, *bad, last = worker.answer(*(request([float(n)]) for n in range(9)))
    assert (first.json, last.json) == ({"result": 1}, {"result": 17})
    assert {reply.error for reply in bad} == {(500, "answer_failed")}
    assert bad[0].json["error"]["message"] == "the answer could not be written: KeyError: 'labels'"
    assert bad[1].json["error"]["message"] == "the answer could not be written: RuntimeError: first"
    assert len([record for record in caplog.records if record.exc_info]) == len(bad)


def test_an_answer_over_the_frontends_limit_fails_its_row_alone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smartbatch_handler, "max_response_bytes", lambda: 1000)
    good, bad, npy = serve("Long").answer(
        request([2.0]), request([1000.0]), request([1000.0], Accept="application/x-npy")
    )
    assert good.json == {"result": [1.0, 1.0]}
    for reply in (bad, npy):
        assert reply.error == (500, "answer_too_large")
        assert "at most 1000 are sent (max_response_size" in reply.json["error"]["message"]


def test_calibration_that_the_model_does_not_take_is_skipped(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    worker = serve("Ids", input_shape=[6], micro_batch="auto")
    with caplog.at_level(logging.WARNING):
        replies = worker.answer(request([1, 2, 3, 4, 5, 6]), request([7, 7, 7, 7, 7, 7]))
    assert [reply.status for reply in replies] == [200, 200]
    assert "the micro-batch is not calibrated" in caplog.text
    described = worker.answer(DESCRIBE)[0].json
    assert (described["loaded"], described["loads"], described["micro_batch"]) == (True, 1, {})


def test_a_failure_that_nobody_foresaw_is_answered_and_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ManagedModel, shape: tuple[int, ...]) -> int:
        raise ZeroDivisionError

    worker = serve("Line")
    monkeypatch.setattr(ManagedModel, "micro_batch_size", broken)
    counted: Counter[Any] = Counter()
    monkeypatch.setattr(worker.handler.telemetry, "add", counted.update)
    replies = worker.answer(request([1.0]), request(b"{"))
    assert [reply.error for reply in replies] == [(500, "internal"), (400, "malformed")]
    assert counted[worker.handler.telemetry.key(names.REQUESTS, status="500")] == 1


def test_a_lost_gpu_costs_its_batch_and_then_the_worker(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel's assertion does to CUDA cannot be had without one; all that follows is real."""
    ended: list[str] = []
    monkeypatch.setattr(wire, "end_after_reply", ended.append)
    worker = serve("Ids")
    assert worker.answer(request([1.0, 2.0]))[0].status == 200
    assert not ended
    monkeypatch.setattr(recover, "is_lost", lambda device: True)
    good, bad, malformed = worker.answer(request([1.0, 2.0]), request([1.0, 500.0]), request(b"{"))
    assert good.error == bad.error == (503, "device_lost")
    assert good.headers["Retry-After"] == "1"
    assert malformed.error == (400, "malformed")
    assert ended == ["its GPU is lost"]


def test_a_metric_tells_whether_workers_measure_in_the_background(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def have_measured(*_: object) -> None:
        assert over.wait(60)
        raise NotMeasuredError("a test")

    monkeypatch.setattr(managed, "have_measured", have_measured)
    worker = serve("Slow", input_shape=[4], micro_batch="auto")
    worker.handler.model.measures_first = False
    told: list[str] = []
    monkeypatch.setattr(worker.handler.telemetry, "_write", told.append)
    assert worker.answer(request([1, 2, 3, 4]))[0].status == 200
    worker.handler.telemetry.flush()
    assert f"{names.MODEL_MEASURING}.unit:1|#model:m,level:Model,worker:" in "".join(told)
    told.clear()
    over.set()
    deadline = time.monotonic() + 60
    while worker.handler.model.is_measuring:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.handler.telemetry.flush()
    assert f"{names.MODEL_MEASURING}.unit:0|" in "".join(told)


def test_a_load_that_fails_in_any_way_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    worker = serve("Line")
    (tmp_path / "model.py").write_text("raise SystemError('half written')")
    (failed,) = worker.answer(request([1.0]))
    assert failed.error == (503, "model_unavailable")
    (tmp_path / "model.py").write_text(MODELS)
    assert worker.answer(request([1.0]))[0].json == {"result": [3.0]}
