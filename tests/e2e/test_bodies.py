"""Bodies as clients send them, through TorchServe's frontend, which takes forms apart; and answers in each form."""

from __future__ import annotations

import asyncio
import gzip
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
import tritonclient.http as triton
import tritonclient.http.aio as aio
from safetensors.torch import load
from smartbatch.remote.scrape import scrape
from smartbatch.server.running import RunningServer
from smartbatch_worker.contract import metrics as names
from tritonclient.utils import InferenceServerException

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
    assert max(sizes) <= max(int(reply.headers["X-SmartBatch-Batch-Size"]) for reply in replies)

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


# KServe's and Triton's clients, as they come


def test_kserves_first_protocol(running_server: RunningServer) -> None:
    url = f"{running_server.inference_url}/v1/models/tiny:predict"
    answer = requests.post(url, json={"instances": [[1, 2, 3, 4], [0, 0, 0, 0]]}, timeout=60)
    assert answer.json() == {"predictions": [RIGHT, [1, 1, 1, 1]]}


def triton_input(name: str, array: np.ndarray[Any, Any], datatype: str = "FP32", binary: bool = True) -> Any:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


@pytest.fixture(scope="module")
def triton_client(running_server: RunningServer) -> Iterator[Any]:
    client = triton.InferenceServerClient(running_server.inference_url.removeprefix("http://"), concurrency=16)
    yield client
    client.close()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.mended
def test_triton_clients_are_answered(triton_client: Any, binary: bool) -> None:
    x = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    wanted = [triton.InferRequestedOutput("result", binary_data=binary)]
    answer = triton_client.infer(
        "tiny", [triton_input("data", x, binary=binary)], model_version="1.0", outputs=wanted, request_id="r-1"
    )
    assert np.array_equal(answer.as_numpy("result"), 2 * x + 1)
    told = answer.get_response()
    assert (told["model_name"], told["model_version"], told["id"]) == ("tiny", "1.0", "r-1")
    packed = triton_client.infer("tiny", [triton_input("data", x)], request_compression_algorithm="gzip")
    assert np.array_equal(packed.as_numpy("result"), 2 * x + 1)
    whole = triton_client.infer("tiny", [triton_input("data", x.astype(np.int64), "INT64")])
    assert np.array_equal(whole.as_numpy("result"), 2 * x + 1)


def test_binary_tensors_need_nothing_of_the_frontend(triton_client: Any) -> None:
    x = np.array([1, 2, 3, 4], np.float32)
    assert triton_client.infer("tiny", [triton_input("data", x)]).as_numpy("result").tolist() == RIGHT


@pytest.mark.mended
def test_triton_clients_are_told_what_is_wrong(triton_client: Any) -> None:
    x = np.ones((1, 4), np.float32)

    def refused(model: str, given: Any, **more: Any) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            triton_client.infer(model, [given], **more)
        return caught.value.status(), caught.value.message()

    assert refused("nope", triton_input("data", x)) == ("404", "Model not found: nope")
    status, message = refused("tiny", triton_input("data", x), model_version="7")
    assert status == "404"
    assert "version" in message
    assert refused("tiny", triton_input("x", x)) == ("422", "the model takes one input, named 'data'; got 'x'")
    assert refused("tiny", triton_input("data", np.ones((1, 3), np.float32)))[0] == "422"
    asked = [triton.InferRequestedOutput("scores")]
    assert refused("tiny", triton_input("data", x), outputs=asked) == (
        "400",
        "there is no output 'scores'; the model gives 'result'",
    )


@pytest.mark.mended
def test_triton_clients_ask_for_some_of_several_outputs_and_for_classes(
    triton_client: Any, segments: tuple[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]]
) -> None:
    _, alone = segments
    items = torch.rand((2, 3, 8, 9), generator=torch.Generator().manual_seed(3))
    wanted = [
        triton.InferRequestedOutput("mean", binary_data=True),
        triton.InferRequestedOutput("area", binary_data=False),
    ]
    answer = triton_client.infer("segments", [triton_input("data", items.numpy())], outputs=wanted)
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["mean", "area"]
    expected = [alone(item) for item in items]
    assert answer.as_numpy("mean").dtype == np.float64
    assert np.allclose(answer.as_numpy("mean"), np.stack([each["mean"].numpy() for each in expected]))
    assert np.array_equal(answer.as_numpy("area"), np.stack([each["area"].numpy() for each in expected]))
    classes = triton_client.infer(
        "segments",
        [triton_input("data", items.numpy())],
        outputs=[triton.InferRequestedOutput("mean", binary_data=True, class_count=2)],
    ).as_numpy("mean")
    assert classes.shape == (2, 2)
    best = [text.decode().split(":")[1] for text in classes[:, 0]]
    assert best == [str(int(each["mean"].argmax())) for each in expected]


@pytest.mark.mended
def test_many_at_once_from_asynchronous_clients_are_not_mixed_up(running_server: RunningServer) -> None:
    rows = [np.full((count % 3 + 1, 4), count, np.float32) for count in range(32)]

    async def ask_all() -> list[Any]:
        async with aio.InferenceServerClient(running_server.inference_url.removeprefix("http://")) as client:
            asked = [
                client.infer("tiny", [aio_input(row, binary=bool(at % 2))], request_id=str(at))
                for at, row in enumerate(rows)
            ]
            bad = [client.infer("tiny", [aio_input(np.ones((1, 5), np.float32), binary=True)]) for _ in range(4)]
            return await asyncio.gather(*asked, *bad, return_exceptions=True)

    def aio_input(row: np.ndarray[Any, Any], binary: bool) -> Any:
        given = aio.InferInput("data", list(row.shape), "FP32")
        given.set_data_from_numpy(row, binary_data=binary)
        return given

    *answers, one, two, three, four = asyncio.run(ask_all())
    for at, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        assert answer.get_response()["id"] == str(at)
        assert np.array_equal(answer.as_numpy("result"), 2 * row + 1)
    assert {error.status() for error in (one, two, three, four)} == {"422"}


@pytest.mark.mended
def test_what_lies_under_v2_is_counted_as_such(running_server: RunningServer) -> None:
    given = {"name": "data", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
    url = f"{running_server.inference_url}/v2/models/tiny"
    as_json = requests.post(f"{url}/versions/1.0/infer", json={"inputs": [given]}, timeout=60)
    assert as_json.json()["outputs"][0]["data"] == RIGHT
    for path, status in (("/infer", 400), ("/versions/8/infer", 404), ("/nothing", 404)):
        refused = requests.post(url + path, data=b"x", headers={"Content-Type": "application/json"}, timeout=60)
        assert refused.status_code == status
        assert list(refused.json()) == ["error"]
        assert isinstance(refused.json()["error"], str)
    samples = requests.get(running_server.metrics_url, timeout=60).text
    assert 'smartbatch_http_requests_total{model="tiny",route="v2",status="200",}' in samples
