"""The main promise, on a real TorchServe with ResNet18: batches form, every row gets its own right answer."""

from __future__ import annotations

import concurrent.futures
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import requests
import safetensors.numpy
from PIL import Image
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.remote.scrape import Samples, scrape, summary
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract import metrics as names

from tests.conftest import StartServer

MODEL = "resnet18"
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("model_store")
    build_archive(ArchiveSettings(random_weights=True, output=store))
    return store


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = ServerSettings(
        model_store=store, run_dir=tmp_path_factory.mktemp("run"), inference_port=0, management_port=0, metrics_port=0
    )
    running = start_server(settings)
    try:
        yield running
    finally:
        running.stop(grace_s=0)


@pytest.fixture(scope="module")
def url(server: RunningServer) -> str:
    """One worker, with batches of up to 32."""
    with server.management() as client:
        client.register(f"{MODEL}.mar", MODEL, batch_size=32, max_batch_delay_ms=50, workers=1)
        client.wait_ready(MODEL, TIMEOUT_S)
    return f"{server.inference_url}/predictions/{MODEL}"


def post(url: str, body: bytes, headers: dict[str, str]) -> requests.Response:
    return requests.post(url, data=body, headers={"X-SmartBatch-Output": "raw", **headers}, timeout=TIMEOUT_S)


def together(url: str, requests_to_send: list[tuple[bytes, dict[str, str]]]) -> list[requests.Response]:
    with concurrent.futures.ThreadPoolExecutor(len(requests_to_send)) as pool:
        return list(pool.map(lambda request: post(url, *request), requests_to_send))


def picture(seed: int, kind: str, size: tuple[int, int]) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tensor(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack"}
SAFETENSORS = {"Content-Type": "application/x-safetensors"}


def uint8(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 224, 224), dtype=np.uint8)


MIXED: list[Callable[[int], tuple[bytes, dict[str, str]]]] = [
    lambda seed: (picture(seed, "JPEG", (320, 240)), {}),
    lambda seed: (picture(seed, "PNG", (230, 300)), {"Content-Type": "image/png"}),
    lambda seed: (picture(seed, "WEBP", (256, 256)), {}),
    lambda seed: (npy(tensor(seed, 3, 96, 96)), {}),
    lambda seed: (npy(uint8(seed)), {}),
    lambda seed: (npy(tensor(seed, 2, 3, 64, 64)), {}),
    lambda seed: (json.dumps({"data": tensor(seed, 3, 48, 40).tolist()}).encode(), JSON),
    lambda seed: (json.dumps({"data": tensor(seed, 2, 2).tolist()}).encode(), JSON),
    lambda seed: (safetensors.numpy.save({"data": tensor(seed, 3, 64, 64)}), SAFETENSORS),
    lambda seed: (msgspec.msgpack.encode({"data": tensor(seed, 3, 32, 32).tolist()}), MSGPACK),
]


def settled(server: RunningServer, num_requests: int, model: str = MODEL) -> Samples:
    """The server's counters once every request is in them; the workers' lag by up to 50 ms."""
    deadline = time.monotonic() + 30
    while True:
        samples = scrape(server.metrics_url)
        answered = samples.total(names.REQUESTS, model=model)
        latencies = samples.total(f"{names.REQUEST_SECONDS}_count", model=model)
        if (
            summary(samples, model)["total_requests"] == answered == latencies == num_requests
            or time.monotonic() > deadline
        ):
            return samples
        time.sleep(0.1)


def test_weights_load_at_the_first_request_and_once_for_50_together(server: RunningServer) -> None:
    url = f"{server.inference_url}/predictions/fresh"
    with server.management() as client:
        client.register(f"{MODEL}.mar", "fresh", batch_size=32, max_batch_delay_ms=50, workers=1)
        client.wait_ready("fresh", TIMEOUT_S)
        before = client.describe("fresh", customized=True).customized
        assert before is not None
        assert (before["loaded"], before["loads"]) == (False, 0)
        responses = together(url, [MIXED[7](seed) for seed in range(50)])
        assert [r.status_code for r in responses] == [200] * 50
        after = client.describe("fresh", customized=True).customized
        assert after is not None
        assert (after["loaded"], after["loads"]) == (True, 1)
        client.unregister("fresh")


def test_256_mixed_requests_together_equal_their_solo_answers(server: RunningServer, url: str) -> None:
    payloads = [MIXED[index % len(MIXED)](index) for index in range(256)]
    before = summary(scrape(server.metrics_url), MODEL)
    together_answers = together(url, payloads)
    assert [r.status_code for r in together_answers] == [200] * 256
    sizes = [int(r.headers["X-SmartBatch-Batch-Size"]) for r in together_answers]
    assert max(sizes) > 1

    samples = settled(server, before["total_requests"] + 256)
    after = summary(samples, MODEL)
    num_batches = after["total_batches"] - before["total_batches"]
    assert after["total_requests"] - before["total_requests"] == 256
    # Each request of a batch of n contributes 1/n of a batch: the client's own count of batches.
    assert num_batches == pytest.approx(sum(1 / size for size in sizes), abs=1e-6)
    assert num_batches < 256
    buckets = samples.buckets("smartbatch_batch_size", model=MODEL)
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == after["total_batches"]
    assert samples.total("smartbatch_batch_size_sum", model=MODEL) == after["total_requests"]

    for index in range(0, 256, 13):  # solo forwards are slow on two cores: some of them, of each format
        solo = post(url, *payloads[index])
        assert solo.headers["X-SmartBatch-Batch-Size"] == "1"
        np.testing.assert_allclose(
            np.array(together_answers[index].json()["result"]), np.array(solo.json()["result"]), atol=1e-4, rtol=0
        )


def test_bad_rows_fail_alone_and_say_why(server: RunningServer, url: str) -> None:
    good = [MIXED[index % 3](index) for index in range(29)]
    jpeg = picture(99, "JPEG", (320, 240))
    bad = [
        (jpeg[: len(jpeg) // 2], {}, 400, "truncated"),
        (npy(tensor(1, 4, 224, 224)), {}, 422, "[3, *, *]"),
        (b'{"data": [[0.1, 0.2', JSON, 400, "not valid JSON"),
    ]
    with server.management() as client:
        pid = client.describe(MODEL).workers[0].pid
        solo = [post(url, *payload).json()["result"] for payload in good]
        payloads = [*good[:10], bad[0][:2], *good[10:20], bad[1][:2], *good[20:], bad[2][:2]]
        responses = together(url, payloads)
        failed = {10: bad[0], 21: bad[1], 31: bad[2]}
        for index, (_, _, status, message) in failed.items():
            assert responses[index].status_code == status
            assert message in responses[index].json()["error"]["message"]
        answers = [r for index, r in enumerate(responses) if index not in failed]
        assert [r.status_code for r in answers] == [200] * 29
        for answer, alone in zip(answers, solo, strict=True):
            np.testing.assert_allclose(answer.json()["result"], alone, atol=1e-4, rtol=0)
        assert client.describe(MODEL).workers[0].pid == pid


def test_answers_by_default_and_on_request(url: str) -> None:
    jpeg = picture(5, "JPEG", (320, 240))
    classes = requests.post(url, data=jpeg, timeout=TIMEOUT_S)
    assert "random" in classes.headers["X-SmartBatch-Weights"]
    assert classes.headers["Content-Type"] == "application/json"
    result = classes.json()["result"]
    assert len(result) == 5
    assert sorted(result[0]) == ["index", "label", "score"]
    raw = post(url, jpeg, {}).json()["result"]
    assert int(np.argmax(raw)) == result[0]["index"]
    as_npy = post(url, jpeg, {"Accept": "application/x-npy"})
    np.testing.assert_allclose(np.load(io.BytesIO(as_npy.content)), raw, atol=1e-5)
    form = requests.post(url, files={"data": ("x.jpg", jpeg, "image/jpeg")}, timeout=TIMEOUT_S)
    assert form.json()["result"][0]["index"] == result[0]["index"]
    two_items = post(url, npy(np.stack([tensor(1, 3, 32, 32), tensor(2, 3, 32, 32)])), {}).json()["result"]
    assert np.array(two_items).shape == (2, 1000)
    wrong = post(url, jpeg, {"X-SmartBatch-Output": "picture"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "malformed")


def test_summary_latencies_agree_with_a_clients_own(start: StartServer) -> None:
    """Any client: this one sends no timing header. A forward of known length, and a second batch that waits for it, so
    that the machine's speed tells little."""
    server = start(env={"TINY_SLEEP_S": "0.5", "SMARTBATCH_MICRO_BATCH": "8", "SMARTBATCH_COMPILE": "off"})
    with server.management() as client:
        client.register("tiny.mar", batch_size=8, max_batch_delay_ms=20, workers=1)
        client.wait_ready("tiny", TIMEOUT_S)
    seconds: list[float] = []

    def loop(count: int) -> None:
        with requests.Session() as session:
            for _ in range(count):
                start = time.perf_counter()
                response = session.post(
                    f"{server.inference_url}/predictions/tiny", json={"data": [1] * 4}, timeout=TIMEOUT_S
                )
                seconds.append(time.perf_counter() - start)
                assert response.status_code == 200, response.text

    # One request of 81 waits for the weights. If eight did, the 95th percentile would fall among them, anywhere.
    loop(1)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(loop, [5] * 16))
    result = summary(settled(server, 81, "tiny"), "tiny")
    p50_s, p95_s = (float(np.quantile(seconds, share)) for share in (0.50, 0.95))
    assert p50_s > 0.8, "most waited for a worker"
    assert result["p50_latency"] == pytest.approx(p50_s, rel=0.25)
    assert result["p95_latency"] == pytest.approx(p95_s, rel=0.25)
