"""Every kind of answer a model may give, in every form a client may ask for, alone and among others."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from smartbatch_worker.contract import metrics as names

from tests.contract.in_process import Reply, Worker, request

Serve = Callable[..., Worker]

MODELS = """
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Pair(NamedTuple):
    double: torch.Tensor
    none: None
    whole: torch.Tensor


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] | None = None


class Line(torch.nn.Module):
    def forward(self, x):
        if (x == 666).any():
            raise RuntimeError("poison")
        return 2 * x + 1


class Named(torch.nn.Module):
    def forward(self, x):
        return Pair(2 * x, None, x.long())


class Classes(torch.nn.Module):
    def forward(self, x):
        return Output(logits=x)


class Parts(torch.nn.Module):
    def forward(self, x):
        return Output(logits=x, hidden=(x > 1, x.double() / 3))


class Finds(torch.nn.Module):
    masks = None

    def forward(self, x):
        found = []
        for row in x.reshape(len(x), -1):
            n = int(row[0]) % 4
            found.append({
                "boxes": torch.arange(4.0 * n).view(n, 4) + row[0], "labels": torch.arange(n),
                "scores": torch.arange(n) / 4 + 0.125, "masks": self.masks,
            })
        return found


class FindsMasks(Finds):
    masks = torch.zeros(1, 1)


class Segments(torch.nn.Module):
    def forward(self, x):
        return {"out": torch.stack([x[:, 0], x[:, 1] * 2, x[:, 2]], 1), "aux": x}


class Wave(torch.nn.Module):
    def forward(self, x):
        return torch.fft.fft(x)


class Half(torch.nn.Module):
    def forward(self, x):
        return x.bfloat16()


class Caches(torch.nn.Module):
    def forward(self, x):
        return {"logits": x, "past": object()}
"""


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    (tmp_path / "model.py").write_text(MODELS)
    (tmp_path / "index_to_name.json").write_text(json.dumps({"0": "ant", "1": "bee", "2": "cat"}))

    def start(model_class: str, **keys: Any) -> Worker:
        section = {"model": "model.py", "model_class": model_class, "input_shape": None, "micro_batch": 8}
        return Worker(tmp_path, section | keys)

    return start


def wanted(output: str) -> dict[str, str]:
    return {"X_SmartBatch_Output": output}


def npz(reply: Reply) -> dict[str, np.ndarray[Any, Any]]:
    assert (reply.status, reply.headers["content-type"]) == (200, "application/x-npz")
    with np.load(io.BytesIO(reply.body), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def picture(value: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def test_named_tuples_and_dataclasses_are_objects_without_what_is_none(serve: Serve) -> None:
    replies = serve("Named").answer(request([1.0, 2.5]), request([3.0, 4.0]))
    assert [reply.json["result"] for reply in replies] == [
        {"double": [2.0, 5.0], "whole": [1, 2]},
        {"double": [6.0, 8.0], "whole": [3, 4]},
    ]
    (reply,) = serve("Parts").answer(request([3.0, 1.0]))
    assert reply.json["result"] == {"logits": [3.0, 1.0], "hidden": [[True, False], [1.0, 1 / 3]]}


def test_several_tensors_as_files_with_their_names_and_types(serve: Serve) -> None:
    one, many, words = serve("Parts", input_shape=[2]).answer(
        request([3.0, 1.0], Accept="application/x-safetensors"),
        request([[3.0, 1.0], [0.0, 5.0]], Accept="application/x-npz;q=0.9, application/json;q=0.5"),
        request([3.0, 1.0], Accept="application/x-npz, */*", **wanted("labels")),
    )
    assert one.headers["content-type"] == "application/x-safetensors"
    tensors = load(one.body)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "logits": [3.0, 1.0],
        "hidden.0": [True, False],
        "hidden.1": [1.0, 1 / 3],
    }
    assert tensors["hidden.1"].dtype == torch.float64
    arrays = npz(many)
    assert {name: array.shape for name, array in arrays.items()} == dict.fromkeys(tensors, (2, 2))
    assert arrays["hidden.0"].tolist() == [[True, False], [False, True]]
    assert words.json["result"]["label"] == "ant", "labels have names, so they are JSON, which is taken too"


def test_detections_among_others_are_each_requests_own(serve: Serve) -> None:
    worker = serve("Finds", input_shape=[1])
    bodies = [[float(n)] for n in range(4)]
    for reply, (n,) in zip(worker.answer(*(request(body, **wanted("boxes")) for body in bodies)), bodies, strict=True):
        boxes = [[4 * i + n + j for j in range(4)] for i in range(int(n))]
        expected = [("ant", 0.125), ("bee", 0.375), ("cat", 0.625)][: int(n)]
        assert reply.json["result"] == [
            {"label": label, "score": score, "box": box}
            for (label, score), box in reversed(list(zip(expected, boxes, strict=True)))
            if score >= 0.5
        ]
    raw, files = worker.answer(request([2.0]), request([[2.0], [3.0]], Accept="application/x-npz"))
    assert raw.json["result"] == {
        "boxes": [[2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0]],
        "labels": [0, 1],
        "scores": [0.125, 0.375],
    }
    assert {name: array.shape for name, array in npz(files).items()} == {
        "boxes.0": (2, 4),
        "boxes.1": (3, 4),
        "labels.0": (2,),
        "labels.1": (3,),
        "scores.0": (2,),
        "scores.1": (3,),
    }


def test_a_picture_to_a_detector_is_answered_with_boxes(serve: Serve) -> None:
    preset = {"image_resize": 8, "image_crop": 8, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    worker = serve("Finds", input_shape=[3, None, None], score_threshold=0.1, **preset)
    boxes, raw, npy = worker.answer(
        request(picture(255), "image/png"),
        request(picture(255), "image/png", **wanted("raw")),
        request(picture(255), "image/png", Accept="application/x-npz"),
    )
    assert boxes.json["result"] == [{"label": "ant", "score": 0.125, "box": [1.0, 2.0, 3.0, 4.0]}]
    assert list(raw.json["result"]) == ["boxes", "labels", "scores"]
    assert npz(npy)["boxes"].tolist() == [[1.0, 2.0, 3.0, 4.0]]
    worker = serve("FindsMasks", input_shape=[3, None, None], score_threshold=0.1, **preset)
    whole, asked = worker.answer(
        request(picture(255), "image/png"), request(picture(255), "image/png", **wanted("boxes"))
    )
    assert set(whole.json["result"]) == {"boxes", "labels", "scores", "masks"}, "nothing is lost unasked"
    assert asked.json == boxes.json


def test_a_mask_is_a_byte_a_pixel(serve: Serve) -> None:
    scores = np.random.default_rng(0).random((3, 224, 224), dtype=np.float32)
    body = io.BytesIO()
    np.save(body, scores)
    worker = serve("Segments", input_shape=[3, None, None], output="mask")
    files, json_reply, raw = worker.answer(
        request(body.getvalue(), "application/x-npy", Accept="application/x-npz"),
        request(body.getvalue(), "application/x-npy"),
        request(body.getvalue(), "application/x-npy", Accept="application/x-npz", **wanted("raw")),
    )
    expected = np.stack([scores[0], scores[1] * 2, scores[2]]).argmax(0)
    (mask,) = npz(files).values()
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)
    assert len(files.body) < 51_000
    assert np.array_equal(np.array(json_reply.json["result"]), expected)
    assert {name: array.shape for name, array in npz(raw).items()} == dict.fromkeys(("out", "aux"), (3, 224, 224))


def test_labels_and_topk_of_logits_with_a_name(serve: Serve) -> None:
    label, several, topk, rows = serve("Classes", output="labels", topk=2).answer(
        request([0.0, 3.0, 1.0]),
        request([[0.0, 3.0, 1.0], [4.0, 0.0, 0.0]]),
        request([0.0, 3.0, 1.0], **wanted("topk")),
        request([[[4.0, 0.0, 0.0]], [[0.0, 0.0, 4.0]]], **wanted("raw")),
    )
    softmax = torch.tensor([0.0, 3.0, 1.0]).softmax(0)
    bee = {"label": "bee", "index": 1, "score": pytest.approx(float(softmax[1]))}
    assert label.json["result"] == bee
    assert several.json["result"] == [bee, {"label": "ant", "index": 0, "score": pytest.approx(0.9647, abs=1e-4)}]
    assert [entry["label"] for entry in topk.json["result"]] == ["bee", "cat"]
    assert rows.json["result"] == {"logits": [[[4.0, 0.0, 0.0]], [[0.0, 0.0, 4.0]]]}


def test_a_picture_to_a_classifier_whose_logits_have_a_name(serve: Serve) -> None:
    worker = serve("Classes", input_shape=[3, None, None], image_resize=8, image_crop=8)
    (reply,) = worker.answer(request(picture(), "image/png"))
    assert set(reply.json["result"]) == {"logits"}, "[3, 8, 8] are no classes"


def test_an_embedding_has_the_length_one_as_json_and_as_npy(serve: Serve) -> None:
    as_json, as_npy = serve("Half", output="embedding").answer(
        request([3.0, 4.0]), request([3.0, 4.0], Accept="application/x-npy")
    )
    assert as_json.json["result"] == pytest.approx([0.6, 0.8])
    assert np.load(io.BytesIO(as_npy.body)).tolist() == pytest.approx([0.6, 0.8])


def test_complex_numbers_are_pairs_in_json_and_themselves_in_files(serve: Serve) -> None:
    as_json, as_npy, as_safetensors = serve("Wave").answer(
        request([1.0, 2.0, 4.0, 0.0]),
        request([1.0, 2.0, 4.0, 0.0], Accept="application/x-npy"),
        request([1.0, 2.0, 4.0, 0.0], Accept="application/x-safetensors"),
    )
    assert as_json.json["result"] == [[7.0, 0.0], [-3.0, -2.0], [3.0, 0.0], [-3.0, 2.0]]
    assert np.load(io.BytesIO(as_npy.body)).tolist() == [7, -3 - 2j, 3, -3 + 2j]
    assert load(as_safetensors.body)["result"].dtype == torch.complex64


def test_bf16_is_itself_where_the_format_has_it(serve: Serve) -> None:
    as_json, as_npy, as_safetensors = serve("Half").answer(
        request([0.1]),
        request([0.1], Accept="application/x-npy"),
        request([0.1], Accept="application/x-safetensors"),
    )
    value = float(torch.tensor(0.1).bfloat16())
    assert as_json.json["result"] == [pytest.approx(value, abs=1e-9)]
    array = np.load(io.BytesIO(as_npy.body))
    assert (array.dtype, array.tolist()) == (np.float32, [value])
    assert load(as_safetensors.body)["result"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("headers", "error", "said"),
    [
        (wanted("boxes"), (400, "malformed"), "output boxes needs a model that gives boxes .* gives float32 [2]"),
        (wanted("mask"), (400, "malformed"), "output mask needs"),
        (
            wanted("picture"),
            (400, "malformed"),
            "labels, boxes, mask, embedding, text; got",
        ),
        ({"Accept": "text/html"}, (406, "not_acceptable"), "application/json, application/x-npy"),
        ({"Accept": "application/x-npz", **wanted("labels")}, (406, "not_acceptable"), "application/json; got"),
        ({"Accept": "application/json;q=high"}, (400, "malformed"), "q in Accept must be a number"),
    ],
)
def test_what_cannot_be_had_fails_its_row_alone(
    serve: Serve, headers: dict[str, str], error: tuple[int, str], said: str
) -> None:
    before, bad, after = serve("Line").answer(request([1.0, 2.0]), request([1.0, 2.0], **headers), request([3.0, 4.0]))
    assert [before.json, after.json] == [{"result": [3.0, 5.0]}, {"result": [7.0, 9.0]}]
    assert bad.error == error
    assert said.split(".*")[0].strip() in bad.json["error"]["message"]
    assert bad.headers["content-type"] == "application/json"


def test_what_cannot_be_cut_is_said_to_every_client(serve: Serve) -> None:
    replies = serve("Caches").answer(request([1.0]), request([2.0]))
    assert [reply.error for reply in replies] == [(500, "model_failed")] * 2
    assert "it gave a object as 'past'" in replies[0].json["error"]["message"]


def test_forward_sizes_are_those_of_the_forwards_that_answered(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = serve("Line", input_shape=[1], micro_batch=4)
    counted: dict[Any, float] = {}
    monkeypatch.setattr(worker.handler.telemetry, "add", lambda values: counted.update(values))

    def sizes(*bodies: Any) -> list[str]:
        return [reply.headers["X-SmartBatch-Forward-Size"] for reply in worker.answer(*map(request, bodies))]

    def histogram() -> dict[str, float]:
        key = worker.handler.telemetry.key
        bounds = {le: counted.get(key(f"{names.FORWARD_SIZE}_bucket", le=le), 0) for le in ("1", "2", "4", "+Inf")}
        return {**bounds, "sum": counted[key(f"{names.FORWARD_SIZE}_sum")]}

    assert sizes([1.0]) == ["1"]
    assert histogram() == {"1": 1, "2": 1, "4": 1, "+Inf": 1, "sum": 1}
    counted.clear()
    assert sizes([1.0], b"{", [[1.0], [2.0], [3.0], [4.0]], [5.0]) == ["3", "0", "3", "3"]
    assert histogram() == {"1": 0, "2": 0, "4": 2, "+Inf": 2, "sum": 6}
    counted.clear()
    # Poison: four together fail, then two, then the one; the good of that pair ran alone.
    assert sizes([1.0], [666.0], [3.0], [4.0]) == ["1", "0", "2", "2"]
    assert histogram() == {"1": 1, "2": 2, "4": 2, "+Inf": 2, "sum": 3}
