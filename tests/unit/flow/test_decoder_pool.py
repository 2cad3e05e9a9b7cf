"""Who decodes which row: at once, in threads, or together, as on a GPU."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from smartbatch_worker import formats
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow import decoder_pool
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.flow.decoder_pool import DecoderPool, GpuDecoder
from smartbatch_worker.flow.rows import Row

from tests.unit.formats.bodies import npy

formats.prepare_pictures()  # sets a variable of the environment, which a test may not

CPU = torch.device("cpu")
SIZES = [(300, 400), (400, 300), (300, 256), (640, 480)]


def photo(width: int, height: int, **options: object) -> bytes:
    """Smooth, as decoders disagree on the edges of colours."""
    ramp = np.linspace(0, 255, width * height, dtype=np.uint8).reshape(height, width)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1))
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return photo(300, 400, exif=exif)


def numbers(length: int = 12) -> bytes:
    return npy(np.zeros(length, dtype=np.float32))


def who_decodes(pool: DecoderPool, bodies: list[bytes]) -> dict[int, str]:
    rows = [Row(body, {}) for body in bodies]
    threads: dict[int, str] = {}

    def note(row: Row) -> None:
        threads[[each is row for each in rows].index(True)] = threading.current_thread().name

    pool.run(note, rows)
    return threads


def test_what_is_hardly_more_than_copied_is_read_at_once() -> None:
    torch.set_num_threads(2)
    here = threading.current_thread().name
    found = who_decodes(DecoderPool(), [photo(300, 400), numbers(), photo(400, 300), numbers(2**19)])
    assert found[1] == here
    assert {found[index].rpartition("_")[0] for index in (0, 2, 3)} == {"smartbatch-decode"}


def test_a_users_own_decoding_may_take_long_whatever_the_body_is() -> None:
    torch.set_num_threads(2)
    pool = DecoderPool.of(WorkerConfig(), CPU, {"preprocess_item"})
    assert {name.rpartition("_")[0] for name in who_decodes(pool, [numbers()] * 4).values()} == {"smartbatch-decode"}


@pytest.mark.parametrize(("body", "most"), [(photo(8, 8), decoder_pool.MOST_FOR_PICTURES), (b'{"data": [1]}', 9)])
def test_more_threads_than_help_are_not_made(body: bytes, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    made: list[int] = []
    decoders = decoder_pool._decoders

    def make(size: int) -> ThreadPoolExecutor:
        made.append(size)
        return decoders(size)

    monkeypatch.setattr(decoder_pool, "_decoders", make)
    DecoderPool().run(lambda row: None, [Row(body, {}) for _ in range(9)])
    assert made == [most]


def test_usual_jpegs_are_read_together_and_all_else_is_left() -> None:
    """The same code as on a GPU: torchvision's decoder runs on both."""
    config = WorkerConfig.resolve({"image_decoder": "gpu"}, {})
    usual = [photo(*size) for size in SIZES] + [turned()]
    left = [
        photo(300, 400, progressive=True),
        photo(300, 400)[:900],
        photo(60, 3100),
        b"\xff\xd8\xff\xe0junk",
        numbers(),
        b"",
    ]
    squeezed = Row(usual[0], {"content-encoding": "gzip"})
    late = Row(usual[0], {}, deadline=0.0)
    rows = [Row(body, {}) for body in usual + left] + [squeezed, late]
    assert GpuDecoder(config, CPU).run(rows) == [*rows[len(usual) : -2], squeezed]
    assert late.status == 504
    for row, body in zip(rows, usual, strict=False):
        items, expected = row.items, decode(body, "", config).items[0]
        assert items[0].shape == expected.shape == (3, 224, 224)
        assert (items[0].int() - expected.int()).abs().max() <= 1
        assert (row.is_image, row.has_batch_dim, row.error) == (True, False, None)


def test_one_file_that_the_decoder_refuses_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import io as torchvision_io

    refused = photo(300, 256)
    decoder = torchvision_io.decode_jpeg

    def decode_some(files: list[torch.Tensor], **options: object) -> object:
        if any(file.numel() == jpeg_length for file in files):
            raise RuntimeError("not today")
        return decoder(files, **options)

    config = WorkerConfig.resolve({"image_decoder": "gpu"}, {})
    opened = formats.open_usual_jpeg(refused, config)
    assert opened is not None
    jpeg_length = opened.file.numel()
    monkeypatch.setattr(torchvision_io, "decode_jpeg", decode_some)
    rows = [Row(photo(300, 400), {}), Row(refused, {}), Row(photo(400, 300), {})]
    assert GpuDecoder(config, CPU).run(rows) == [rows[1]]


def test_without_a_gpu_jpegs_are_read_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    assert GpuDecoder.of(WorkerConfig(), torch.device("cuda")) is None
    assert not caplog.messages
    asked = WorkerConfig.resolve({"image_decoder": "gpu"}, {})
    assert GpuDecoder.of(asked, CPU) is None
    assert "image_decoder: gpu needs a GPU" in caplog.text
    assert GpuDecoder.of(asked, torch.device("cuda")) is not None
    assert DecoderPool.of(asked, torch.device("cuda"), {"inference"})._gpu is None
    assert "has its own inference" in caplog.text
    numbers_only = WorkerConfig.resolve({"image_decoder": "gpu", "input_shape": [16]}, {})
    assert GpuDecoder.of(numbers_only, torch.device("cuda")) is None
    with pytest.raises(ValueError, match="image_decoder must be one of cpu, gpu"):
        WorkerConfig.resolve({"image_decoder": "tpu"}, {})
