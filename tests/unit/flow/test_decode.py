"""decode: every accepted format to the same items; every broken body to its own error."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.kernels import json_numbers

from tests.unit.formats.bodies import CHW, IMAGE_MODEL, VECTOR_MODEL, Refused, assert_refused, image, npy


@pytest.fixture(autouse=True, scope="module")
def _compiled(built: Path) -> None:
    json_numbers.prepare(built)


TENSOR_BODIES = {
    "json": (json.dumps({"data": CHW.tolist()}).encode(), "application/json"),
    "json without a content type": (json.dumps({"data": CHW.tolist()}).encode(), ""),
    "msgpack lists": (msgspec.msgpack.encode({"data": CHW.tolist()}), "application/msgpack"),
    "msgpack bytes": (
        msgspec.msgpack.encode({"data": CHW.tobytes(), "shape": [3, 5, 6], "dtype": "float32"}),
        "application/msgpack; charset=binary",
    ),
    "npy": (npy(CHW), ""),
    "npy float64": (npy(CHW.astype(np.float64)), ""),
    "npy in Fortran order": (npy(np.asfortranarray(CHW)), ""),
    "npy big-endian": (npy(CHW.astype(">f4")), ""),
    "safetensors": (safetensors.numpy.save({"data": CHW}), "application/x-safetensors"),
}


class Collected:
    """Garbage whose end runs Python, where another thread may take its turn."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        sum(range(50))


def test_bodies_are_decoded_in_threads_while_garbage_is_collected() -> None:
    def decode_often(name: str) -> None:
        body, content_type = TENSOR_BODIES[name]
        for _ in range(2000):
            Collected()
            (item,) = decode(body, content_type, IMAGE_MODEL).items
            assert np.array_equal(item.numpy(), CHW)

    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(7)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(decode_often, ["npy", "npy", "npy", "json", "safetensors", "msgpack bytes"]))
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)


@pytest.mark.usefixtures("json_reader")
@pytest.mark.parametrize("name", TENSOR_BODIES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_every_tensor_format_gives_the_same_item(name: str, kind: type) -> None:
    body, content_type = TENSOR_BODIES[name]
    decoded = decode(kind(body), content_type, IMAGE_MODEL)
    assert not decoded.has_batch_dim
    assert decoded.items[0].dtype == torch.float32
    np.testing.assert_array_equal(decoded.items[0].numpy(), CHW)


def test_a_plane_is_repeated_over_the_channels() -> None:
    (item,) = decode(b'{"data": [[0.1, 0.2], [0.3, 0.4]]}', "", IMAGE_MODEL).items
    assert item.shape == (3, 2, 2)
    assert torch.equal(item[0], item[2])


def test_four_dimensions_are_n_items() -> None:
    decoded = decode(npy(np.stack([CHW, CHW + 1])), "", IMAGE_MODEL)
    assert decoded.has_batch_dim
    assert len(decoded.items) == 2
    np.testing.assert_array_equal(decoded.items[1].numpy(), CHW + 1)


def test_vectors_and_batches_of_vectors() -> None:
    assert len(decode(b'{"data": [1, 2, 3, 4]}', "", VECTOR_MODEL).items) == 1
    assert len(decode(b'{"data": [[1, 2, 3, 4], [5, 6, 7, 8]]}', "", VECTOR_MODEL).items) == 2


def test_uint8_pixels_last_are_turned_channels_first() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (7, 8, 3), dtype=np.uint8)
    (item,) = decode(npy(pixels), "", IMAGE_MODEL).items
    np.testing.assert_array_equal(item.numpy(), pixels.transpose(2, 0, 1))


def test_uint8_vectors_are_plain_numbers() -> None:
    (item,) = decode(npy(np.array([0, 1, 254, 255], np.uint8)), "", VECTOR_MODEL).items
    assert item.tolist() == [0.0, 1.0, 254.0, 255.0]


BROKEN: dict[str, Refused] = {
    "empty": (b"", "", 400, "empty"),
    "unknown": (b"hello", "text/plain", 415, "accepted are"),
    "a picture of another format": (b"GIF89a", "image/gif", 415, "the body is GIF, which is not read"),
    "empty tensor": (b'{"data": [[]]}', "", 422, "empty"),
    "wrong channels": (npy(np.zeros((4, 8, 8), np.float32)), "", 422, r"\[3, \*, \*\]"),
    "too many dimensions": (npy(np.zeros((1, 1, 3, 8, 8), np.float32)), "", 422, "items of shape"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_say_what_is_wrong(name: str) -> None:
    assert_refused(BROKEN[name])


def test_too_many_items() -> None:
    config = WorkerConfig.resolve({"input_shape": [1], "max_items": 3}, {})
    with pytest.raises(RowError, match="max_items") as caught:
        decode(b'{"data": [[1], [2], [3], [4]]}', "", config)
    assert caught.value.status == 413


def test_too_many_numbers() -> None:
    config = WorkerConfig.resolve({"max_elements": 3}, {})
    for body in (b'{"data": [1, 2, 3, 4]}', npy(np.zeros(4, np.float32))):
        with pytest.raises(RowError, match="max_elements") as caught:
            decode(body, "", config)
        assert caught.value.status == 413


def test_images_to_a_vector_model_are_refused() -> None:
    with pytest.raises(RowError, match="takes tensors of shape") as caught:
        decode(image("JPEG"), "", VECTOR_MODEL)
    assert caught.value.status == 415


def test_only_a_worker_of_pictures_imports_torchvision() -> None:
    """It is as much as all of torch; and what sees pictures has it before the first one comes."""
    program = """if True:
        import sys
        import smartbatch_handler
        from smartbatch_worker.contract.config import WorkerConfig
        from smartbatch_worker.flow import decode
        for shape in ("4", "3,*,*"):
            decode.prepare(WorkerConfig.resolve({"input_shape": shape}, {}))
            print("torchvision" in sys.modules)
    """
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout) == (0, "False\nTrue\n"), done.stderr
