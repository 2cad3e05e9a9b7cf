"""Bodies as clients send them, through TorchServe's frontend, which takes forms apart; and answers in each form."""

from __future__ import annotations

import gzip
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from safetensors.torch import load
from smartbatch.remote.scrape import scrape
from smartbatch.server.running import RunningServer
from smartbatch_worker.contract import metrics as names

from tests.faults.archives import derive

NUMBERS = np.array([1, 2, 3, 4], np.float32)
RIGHT = [3.0, 5.0, 7.0, 9.0]
JSON = b'{"data": [1, 2, 3, 4]}'


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, NUMBERS)
    return stream.getvalue()


def post(server: RunningServer, path: str = "/predictions/tiny", **request: Any) -> tuple[int, Any]:
    """(status, result or message)."""
    answer = requests.post(f"{server.inference_url}{path}", timeout=60, **request)
    body = answer.json()
    return answer.status_code, body["result"] if answer.ok else body["error"]["message"]


FORMS: dict[str, Any] = {
    "a file": {"files": {"file": ("numbers.npy", npy(), "application/octet-stream")}},
    "a file whose type is not said": {"files": {"file": npy()}},
    "a file of JSON": {"files": {"upload": ("x.json", JSON, "application/json")}},
    "a file among text fields": {"files": {"file": ("x.npy", npy())}, "data": {"title": "numbers", "data": "1"}},
    "a file named as a header": {"files": {"Content-Type": ("x.npy", npy())}, "data": {"describe": "no"}},
    "a text field alone": {"files": {"anything": (None, JSON)}},
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_with_one_file_are_answered(running_server: RunningServer, name: str) -> None:
    assert post(running_server, **FORMS[name]) == (200, RIGHT)


def test_other_forms_say_what_was_found(running_server: RunningServer) -> None:
    two = [("file", ("a.npy", npy())), ("file", ("b.npy", npy()))]
    status, message = post(running_server, files=two)
    assert status == 400
    assert "found 2: 'file', 'file'" in message
    status, message = post(running_server, files={"a": (None, "1"), "b": (None, "2")})
    assert status == 400
    assert "found none among its 2 fields: 'a', 'b'" in message
    status, message = post(running_server, data=b"")
    assert status == 400
    assert "the body is empty" in message


@pytest.mark.parametrize("path", ["/predictions/tiny?x=1", "/models/tiny/invoke?x=1&body=2"])
def test_a_query_is_not_the_body(running_server: RunningServer, path: str) -> None:
    assert post(running_server, path, data=JSON, headers={"Content-Type": "application/json"}) == (200, RIGHT)


def test_compressed_bodies_are_inflated_or_refused(running_server: RunningServer) -> None:
    packed = gzip.compress(JSON)
    as_json = {"Content-Type": "application/json"}
    assert post(running_server, data=packed, headers={**as_json, "Content-Encoding": "gzip"}) == (200, RIGHT)
    assert post(running_server, data=gzip.compress(npy()), headers={"Content-Encoding": "GZIP"}) == (200, RIGHT)
    assert post(running_server, data=JSON, headers={**as_json, "Content-Encoding": "identity"}) == (200, RIGHT)
    status, message = post(running_server, data=JSON, headers={**as_json, "Content-Encoding": "br"})
    assert status == 415
    assert "'br'" in message
    bomb = gzip.compress(bytes(65 * 2**20), 9)
    status, message = post(running_server, data=bomb, headers={"Content-Encoding": "gzip"})
    assert status == 413
    assert "inflates to more" in message


def test_numbers_beyond_64_bits_arrive(running_server: RunningServer) -> None:
    status, result = post(
        running_server, data=b'{"id": 123456789012345678901, "data": [1e19, 120000000000000000000, 1, 2]}'
    )
    assert status == 200
    assert result == pytest.approx([2e19, 2.4e20, 3, 5], rel=1e-6)


SEGMENTS = """
import torch


class Segments(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Conv2d(3, 5, 3, padding=1)
        with torch.no_grad():
            for number, weights in enumerate(self.parameters()):
                weights.copy_(torch.rand(weights.shape, generator=torch.Generator().manual_seed(number)) - 0.5)

    def forward(self, x):
        scores = self.scores(x)
        return {"out": scores, "area": (scores > 0).sum((2, 3)), "mean": scores.double().mean((2, 3)), "aux": None}
"""
NUM_TOGETHER = 16


@pytest.fixture(scope="module")
def segments(
    running_server: RunningServer, model_store: Path, tiny_archive: Path
) -> tuple[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]]:
    """The URL of a model that segments, on the module's server; and the same in this process, one item at a time."""
    derive(
        tiny_archive,
        model_store / "segments.mar",
        {"model.py": SEGMENTS},
        {"input_shape": [3, None, None], "micro_batch": 8},
    )
    with running_server.management() as client:
        client.register("segments.mar", batch_size=NUM_TOGETHER, max_batch_delay_ms=100, workers=1)
        client.wait_ready("segments")
    scope: dict[str, Any] = {}
    exec(SEGMENTS, scope)
    module = scope["Segments"]().eval()

    def alone(item: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return {name: part[0] for name, part in module(item[None]).items() if part is not None}

    return f"{running_server.inference_url}/predictions/segments", alone


def test_masks_and_several_tensors_as_files_equal_plain_pytorchs(
    running_server: RunningServer, segments: tuple[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]]
) -> None:
    """Both at once, of two sizes, so that a batch has both and no forward has."""
    url, alone = segments
    items = torch.rand((NUM_TOGETHER, 3, 96, 96), generator=torch.Generator().manual_seed(7))

    def send(number: int) -> requests.Response:
        stream = io.BytesIO()
        side = 96 if number < NUM_TOGETHER // 2 else 48
        np.save(stream, items[number, :, :side].numpy())
        headers = {"Content-Type": "application/x-npy", "Accept": "application/x-safetensors"}
        if number % 2:
            headers |= {"Accept": "application/x-npz, application/json;q=0.1", "X-SmartBatch-Output": "mask"}
        return requests.post(url, data=stream.getvalue(), headers=headers, timeout=60)

    send(0)
    with ThreadPoolExecutor(NUM_TOGETHER) as pool:
        replies = list(pool.map(send, range(NUM_TOGETHER)))
    assert [reply.status_code for reply in replies] == [200] * NUM_TOGETHER
    for number, reply in enumerate(replies):
        expected = alone(items[number, :, : 96 if number < NUM_TOGETHER // 2 else 48])
        if number % 2:
            with np.load(io.BytesIO(reply.content)) as file:
                (mask,) = (file[name] for name in file.files)
            assert (reply.headers["Content-Type"], mask.dtype) == ("application/x-npz", np.uint8)
            # Two classes may be as good as each other, to the last bit of a sum in another order.
            best = expected["out"].max(0).values
            chosen = expected["out"].gather(0, torch.from_numpy(mask.astype(np.int64))[None])[0]
            torch.testing.assert_close(chosen, best, rtol=1e-5, atol=1e-6)
            assert len(reply.content) < mask.size + 500
        else:
            tensors = load(reply.content)
            assert {name: tensor.dtype for name, tensor in tensors.items()} == {
                "out": torch.float32,
                "area": torch.int64,
                "mean": torch.float64,
            }
            torch.testing.assert_close(tensors["out"], expected["out"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(tensors["mean"], expected["mean"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(tensors["area"], expected["area"], rtol=0, atol=1)
    sizes = [int(reply.headers["X-SmartBatch-Forward-Size"]) for reply in replies]
    assert 1 < max(sizes) <= NUM_TOGETHER // 2
    assert max(sizes) < max(int(reply.headers["X-SmartBatch-Batch-Size"]) for reply in replies)

    def forwards() -> tuple[float, float]:
        samples = scrape(running_server.metrics_url)
        total, count = (samples.total(f"{names.FORWARD_SIZE}_{end}", model="segments") for end in ("sum", "count"))
        return total, count

    deadline = time.monotonic() + 30
    while forwards()[0] < NUM_TOGETHER + 1 and time.monotonic() < deadline:
        time.sleep(0.05)  # metrics come a moment after their answers
    # Each item of a forward of n is 1/n of one: the client's own count.
    assert list(forwards()) == [NUM_TOGETHER + 1, pytest.approx(1 + sum(1 / size for size in sizes))]


def test_what_a_client_does_not_take_is_406(running_server: RunningServer) -> None:
    reply = requests.post(
        f"{running_server.inference_url}/predictions/tiny",
        data=JSON,
        headers={"Content-Type": "application/json", "Accept": "text/html, application/x-npz;q=0"},
        timeout=60,
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (406, "not_acceptable")
    assert reply.headers["X-SmartBatch-Forward-Size"] == "0"
