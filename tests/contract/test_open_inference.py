"""The Open Inference Protocol through the whole handler: what clients send, beside others in one batch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smartbatch.archive.context import Request
from smartbatch_handler import SmartBatchHandler

from tests.contract.in_process import Reply, Worker, request
from tests.contract.test_texts import served, text
from tests.small_transformers import bert

MODEL = """
import torch


class Parts(torch.nn.Module):
    def forward(self, x):
        if (x == 666).any():
            raise RuntimeError("poison")
        return {"line": 2 * x + 1, "whole": x.long()}
"""
OURS = {"X_SmartBatch_Protocol": "v2"}


def infer(data: Any, shape: list[int], name: str = "data", **more: Any) -> Request:
    """As our frontend passes on what comes to /v2/models/<model>/infer; clients name a Content-Type or none."""
    given = {"name": name, "datatype": "FP32", "shape": shape, "data": data}
    return request(json.dumps({"inputs": [given], **more}).encode(), **OURS)


def binary(array: np.ndarray[Any, Any], content_type: str = "application/octet-stream", **more: Any) -> Request:
    """As tritonclient sends it."""
    given = {
        "name": "data",
        "datatype": "FP32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    text = json.dumps({"inputs": [given], **more}).encode()
    return request(text + array.tobytes(), content_type, Inference_Header_Content_Length=str(len(text)))


def parts(reply: Reply) -> tuple[dict[str, Any], bytes]:
    """The JSON of an answer, and what follows it."""
    length = int(reply.headers.get("Inference-Header-Content-Length", len(reply.body)))
    return json.loads(reply.body[:length]), reply.body[length:]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    (tmp_path / "model.py").write_text(MODEL)
    return Worker(tmp_path, {"model": "model.py", "input_shape": [2], "weights_note": "made", "compile": "off"})


def test_each_of_a_batch_is_answered_in_its_own_protocol(worker: Worker) -> None:
    x = np.array([[1, 2], [3, 4]], np.float32)
    asked = [{"name": "whole", "parameters": {"binary_data": True}}, {"name": "line"}]
    ours, flat, as_bytes, mixed = worker.answer(
        request([1, 2]),
        infer([5, 6], [2], id="a"),
        binary(x, parameters={"binary_data_output": True}, id="b"),
        binary(x, outputs=asked),
    )
    assert ours.json == {"result": {"line": [3, 5], "whole": [1, 2]}}
    document, tail = parts(flat)
    assert (document["model_name"], document["id"], tail) == ("m", "a", b"")
    assert document["outputs"] == [
        {"name": "line", "datatype": "FP32", "shape": [2], "data": [11, 13]},
        {"name": "whole", "datatype": "INT64", "shape": [2], "data": [5, 6]},
    ]
    document, tail = parts(as_bytes)
    assert [(output["name"], output["shape"]) for output in document["outputs"]] == [
        ("line", [2, 2]),
        ("whole", [2, 2]),
    ]
    assert np.frombuffer(tail[:16], np.float32).tolist() == [3, 5, 7, 9]
    assert np.frombuffer(tail[16:], np.int64).tolist() == [1, 2, 3, 4]
    document, tail = parts(mixed)
    assert np.frombuffer(tail, np.int64).tolist() == [1, 2, 3, 4]
    assert document["outputs"][1]["data"] == [3, 5, 7, 9]
    types = [reply.headers["content-type"] for reply in (flat, as_bytes)]
    assert types == ["application/json", "application/octet-stream"]


def test_errors_are_strings_and_nobody_elses(worker: Worker) -> None:
    replies = worker.answer(
        infer([1, 2], [2]),
        infer([1, 2, 3], [3]),
        infer([666, 1], [2]),
        infer([1, 2], [2], outputs=[{"name": "nope"}]),
        request(b"no JSON", **OURS),
        request(b"{}", Inference_Header_Content_Length="9"),
        request([1, 2], X_SmartBatch_Protocol="v3"),
        request([1, 2], X_SmartBatch_Output="nope", **OURS),
    )
    assert [reply.status for reply in replies] == [200, 422, 500, 400, 400, 400, 400, 400]
    told = [reply.json["error"] for reply in replies[1:]]
    assert "got [3]" in told[0]
    assert "poison" in told[1]
    assert told[2] == "there is no output 'nope'; the model gives 'line', 'whole'"
    assert "not valid JSON" in told[3]
    assert "says 9 bytes of JSON; the body has 2" in told[4]
    assert told[5] == {"code": "malformed", "message": "X-SmartBatch-Protocol must be v2; got 'v3'"}
    assert told[6].startswith("X-SmartBatch-Output must be one of")


def test_the_content_type_says_it_too_and_accept_does_not_matter(worker: Worker) -> None:
    body = json.dumps({"inputs": [{"name": "data", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]}]}).encode()
    (reply,) = worker.answer(request(body, "Application/vnd.open-inference", Accept="application/x-npy"))
    assert parts(reply)[0]["outputs"][0]["data"] == [3, 5]
    padded = body.ljust(200)
    (reply,) = worker.answer(request(padded, "application/vnd.open-inference; json=200"))
    assert reply.status == 200
    (reply,) = worker.answer(request(body))
    assert reply.error == (400, "malformed")
    assert "POST it to /v2/models/<model>/infer" in reply.json["error"]["message"]


class Shouts(SmartBatchHandler):
    def postprocess_item(self, output: Any) -> Any:
        return "!" * int(output["whole"][0])


def test_a_handler_of_ones_own_answers_in_it(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    section = {"model": "model.py", "input_shape": [2], "weights_note": "made", "compile": "off"}
    (reply,) = Worker(tmp_path, section, Shouts).answer(infer([1, 0, 3, 0], [2, 2]))
    (output,) = reply.json["outputs"]
    assert (output["datatype"], output["shape"], output["data"]) == ("BYTES", [2], ["!", "!!!"])


def test_texts_are_sent_as_bytes(tmp_path: Path) -> None:
    names = {0: "calm", 1: "keen"}
    label2id = {name: index for index, name in names.items()}
    bert(tmp_path / "bert", "ForSequenceClassification", id2label=names, label2id=label2id)
    worker = served(tmp_path / "bert", tmp_path / "staged")
    texts = ["one word", "and two"]
    packed = b"".join(struct.pack("<I", len(one)) + one.encode() for one in texts)
    parameters = {"binary_data_size": len(packed)}
    head = json.dumps(
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 1], "parameters": parameters}]}
    ).encode()
    best = [{"name": "result", "parameters": {"classification": 1}}]
    listed = [{"name": "text", "datatype": "BYTES", "shape": [2], "data": texts}]
    as_bytes, as_json, ours = worker.answer(
        request(head + packed, "", Inference_Header_Content_Length=str(len(head))),
        request(json.dumps({"inputs": listed, "outputs": best}).encode(), **OURS),
        text({"text": texts}, X_SmartBatch_Output="raw"),
    )
    (scores,) = as_bytes.json["outputs"]
    expected = [row["logits"] if isinstance(row, dict) else row for row in ours.json["result"]]
    assert scores["shape"] == [2, 2]
    assert np.allclose(np.array(scores["data"]).reshape(2, 2), expected)
    (classes,) = as_json.json["outputs"]
    assert classes["shape"] == [2, 1]
    assert all(name.split(":")[2] in ("calm", "keen") for name in classes["data"])
