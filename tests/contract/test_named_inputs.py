"""Models with named inputs, through the whole handler: every answer is the model's own for that item alone."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.transforms.v2  # noqa: F401  it sets a variable of the environment when it is first imported
from PIL import Image
from smartbatch_handler import SmartBatchHandler

from tests.contract.in_process import Reply, Request, Worker, request

TEXT_MODEL = """
import torch

class Net(torch.nn.Module):
    '''Attention over ids that a mask ends; padding in sight would change every answer.'''
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(100, 16)
        self.attend = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = torch.nn.Linear(16, 5)

    def forward(self, ids, mask):
        x = self.embed(ids)
        x = x + self.attend(x, x, x, key_padding_mask=mask == 0)[0]
        scores = self.out(x)
        mean = (scores * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return {"tokens": scores, "mean": mean}
"""
TEXT_SECTION = {
    "model": "model.py",
    "inputs": {
        "ids": {"dtype": "int64", "shape": ["L"], "pad": 0},
        "mask": {"dtype": "int64", "shape": ["L"], "pad": 0},
    },
    "outputs": {"tokens": ["L", 5], "mean": [5]},
}

ECHO_MODEL = """
import torch

class Echo(torch.nn.Module):
    def forward(self, **inputs):
        return {name: tensor.double() if name == "halves" else tensor for name, tensor in inputs.items()}
"""


def worker_of(folder: Path, source: str, section: dict[str, Any], **options: Any) -> Worker:
    (folder / "model.py").write_text(source)
    return Worker(folder, {"model": "model.py", "load": "eager", "micro_batch": 32, **section}, **options)


def inputs(**named: Any) -> Request:
    return request(json.dumps({"inputs": named}).encode())


def sentences(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(3.5, 0.8, count)).astype(int), 1, 200)
    return [rng.integers(1, 100, length).tolist() for length in lengths]


def result(reply: Reply) -> Any:
    assert reply.status == 200, reply.body
    return reply.json["result"]


def test_sentences_of_many_lengths_are_answered_as_each_alone(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, TEXT_MODEL, TEXT_SECTION, batch_size=64)
    ids = sentences(48)
    bodies = [inputs(ids=sentence, mask=[1] * len(sentence)) for sentence in ids]
    model = worker.handler.model
    forwards = 0
    original = model.forward

    def counted(batch: Any) -> Any:
        nonlocal forwards
        forwards += 1
        return original(batch)

    model.forward = counted  # type: ignore[method-assign]
    together = [result(reply) for reply in worker.answer(*bodies)]
    assert forwards <= 12
    for sentence, body, answer in zip(ids, bodies, together, strict=True):
        alone = result(worker.answer(body)[0])
        assert np.shape(answer["tokens"]) == (len(sentence), 5)
        np.testing.assert_allclose(answer["tokens"], alone["tokens"], atol=1e-5)
        np.testing.assert_allclose(answer["mean"], alone["mean"], atol=1e-5)


def test_declared_lengths_are_what_is_padded_to_and_the_longest_that_is_taken(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, TEXT_MODEL, {**TEXT_SECTION, "lengths": {"L": [4, 16]}})
    shapes: list[tuple[int, ...]] = []
    original = worker.handler.model.forward

    def seen(batch: Any) -> Any:
        shapes.append(tuple(batch["ids"].shape))
        return original(batch)

    worker.handler.model.forward = seen  # type: ignore[method-assign]
    replies = worker.answer(*(inputs(ids=[1] * length, mask=[1] * length) for length in (3, 4, 9, 17)))
    assert [reply.status for reply in replies] == [200, 200, 200, 422]
    assert "L is 17; at most 16" in replies[3].json["error"]["message"]
    assert {shape[1] for shape in shapes} <= {4, 16}
    assert np.shape(result(replies[2])["tokens"]) == (9, 5)


def test_a_forward_has_max_tokens_at_most(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, TEXT_MODEL, {**TEXT_SECTION, "max_tokens": 24})
    shapes: list[int] = []
    original = worker.handler.model.forward

    def seen(batch: Any) -> Any:
        shapes.append(batch["ids"].numel())
        return original(batch)

    worker.handler.model.forward = seen  # type: ignore[method-assign]
    replies = worker.answer(*(inputs(ids=[1] * length, mask=[1] * length) for length in (3, 4, 9, 12, 12, 30)))
    assert all(reply.status == 200 for reply in replies)
    assert max(size for size in shapes if size != 30) <= 24  # one item that is longer runs alone
    assert 30 in shapes


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


EXACT = {
    "big": {"dtype": "int64", "shape": [2]},
    "halves": {"dtype": "float64", "shape": []},
    "yes": {"dtype": "bool", "shape": ["N"]},
    "small": {"dtype": "uint8", "shape": [2]},
}
BIG = 2**53 + 1


@pytest.mark.parametrize("form", ["json", "safetensors", "npz"])
def test_numbers_arrive_as_they_were_sent(tmp_path: Path, form: str) -> None:
    worker = worker_of(tmp_path, ECHO_MODEL, {"inputs": EXACT})
    values = {"big": [BIG, -(2**63)], "halves": 0.1, "yes": [True, False, True], "small": [0, 255]}
    dtypes = {"big": torch.int64, "halves": torch.float64, "yes": torch.bool, "small": torch.uint8}
    tensors = {name: torch.tensor(value, dtype=dtypes[name]) for name, value in values.items()}
    body = {
        "json": request(json.dumps({"inputs": values}).encode()),
        "safetensors": request(safetensors.torch.save(tensors), "application/x-safetensors"),
        "npz": request(npz(**{name: tensor.numpy() for name, tensor in tensors.items()}), "application/octet-stream"),
    }[form]
    assert result(worker.answer(body)[0]) == values


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"ids": [1]}, 422, "input 'mask' is missing; the model takes ids (int64 [L]), mask (int64 [L])"),
        ({"ids": [1], "mask": [1], "more": [1]}, 422, "there is no input 'more'"),
        ({"ids": [1.5], "mask": [1]}, 400, "input 'ids' must hold whole numbers of at most 64 bits only"),
        ({"ids": [2**63], "mask": [1]}, 400, "input 'ids' must hold whole numbers"),
        ({"ids": [1, 2], "mask": [1]}, 422, "input 'mask' has shape [1], but L is 2 in another input of this item"),
        ({"ids": [[1, 2], [3]], "mask": [[1, 1], [1, 1]]}, 400, "input 'ids' is ragged"),
        ({"ids": [1, [2]], "mask": [1, 1]}, 400, "input 'ids' "),
        ({"ids": [], "mask": []}, 422, "an item has the shapes ids [L], mask [L]"),
        ({"ids": "abc", "mask": [1]}, 400, "input 'ids' must hold numbers; got text"),
        ({"ids": [[[1]]], "mask": [1]}, 422, "an item has the shapes"),
        ({"ids": {"b64": "AA=="}, "mask": [1]}, 400, "input 'ids' takes lists of numbers; got an object"),
    ],
)
def test_what_is_wrong_with_one_request_is_said_and_harms_no_other(
    tmp_path: Path, given: dict[str, Any], status: int, said: str
) -> None:
    worker = worker_of(tmp_path, TEXT_MODEL, TEXT_SECTION)
    good = inputs(ids=[1, 2], mask=[1, 1])
    first, bad, last = worker.answer(good, inputs(**given), good)
    assert (first.status, last.status) == (200, 200)
    assert bad.status == status
    assert said in bad.json["error"]["message"]


def test_several_items_in_one_request(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, TEXT_MODEL, TEXT_SECTION)
    stacked = inputs(ids=[[1, 2], [3, 4]], mask=[[1, 1], [1, 1]])
    listed = request(json.dumps({"inputs": [{"ids": [1, 2], "mask": [1, 1]}, {"ids": [3], "mask": [1]}]}).encode())
    alone = inputs(ids=[1, 2], mask=[1, 1])
    two, varied, one = (result(reply) for reply in worker.answer(stacked, listed, alone))
    assert len(two) == len(varied) == 2
    np.testing.assert_allclose(two[0]["mean"], one["mean"], atol=1e-5)
    assert np.shape(varied[1]["tokens"]) == (1, 5)


def test_a_handler_may_give_a_dict(tmp_path: Path) -> None:
    class Words(SmartBatchHandler):
        def preprocess_item(self, body: bytes | bytearray, headers: Any) -> Any:
            ids = torch.tensor([len(word) for word in body.decode().split()])
            return {"ids": ids, "mask": torch.ones_like(ids)}

    worker = worker_of(tmp_path, TEXT_MODEL, TEXT_SECTION, handler=Words)
    text, empty = worker.answer(request(b"a few short words", "text/plain"), request(b" ", "text/plain"))
    assert np.shape(result(text)["tokens"]) == (4, 5)
    assert empty.status == 422


TWO_INPUTS = """
import torch

class Net(torch.nn.Module):
    def forward(self, image, size):
        return image.mean((1, 2, 3)) + size[:, 0]
"""


def test_a_picture_and_numbers(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (255, 0, 51)).save(stream, "PNG")
    section = {
        "inputs": {
            "image": {"dtype": "float32", "shape": [3, 32, 32], "image": True},
            "size": {"dtype": "float32", "shape": [1]},
        },
        "image_resize": 32,
        "image_crop": 32,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    worker = worker_of(tmp_path, TWO_INPUTS, section)
    encoded = inputs(image={"b64": base64.b64encode(stream.getvalue()).decode()}, size=[2])
    pixels = torch.full((3, 32, 32), 51, dtype=torch.uint8)
    raw = request(safetensors.torch.save({"image": pixels, "size": torch.tensor([1.0])}), "application/x-safetensors")
    broken = inputs(image={"b64": "!"}, size=[2])
    replies = worker.answer(encoded, raw, broken)
    assert result(replies[0]) == pytest.approx(2 + (1 + 0 + 0.2) / 3, abs=1e-5)
    assert result(replies[1]) == pytest.approx(1.2, abs=1e-5)
    assert replies[2].status == 400


def test_one_named_input_takes_the_bodies_of_one_tensor(tmp_path: Path) -> None:
    source = """
import torch
class Net(torch.nn.Module):
    def forward(self, ids):
        return ids.sum(1)
"""
    worker = worker_of(tmp_path, source, {"inputs": {"ids": {"dtype": "int64", "shape": ["L"], "pad": 0}}})
    stream = io.BytesIO()
    np.save(stream, np.array([BIG, 1]))
    bodies = [request([1, 2, 3]), request(stream.getvalue(), "application/octet-stream"), inputs(ids=[4])]
    assert [result(reply) for reply in worker.answer(*bodies)] == [6, BIG + 1, 4]


def test_what_was_padded_is_told(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, TEXT_MODEL, {**TEXT_SECTION, "lengths": {"L": [8]}})
    batcher = worker.handler._batcher
    batcher.padding_ratio()
    told: list[float | None] = []
    worker.handler.telemetry.gauge = lambda name, value, **_: told.append(value)  # type: ignore[method-assign]
    worker.answer(inputs(ids=[1, 2], mask=[1, 1]))
    assert told == [0.75]
