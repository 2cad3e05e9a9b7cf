"""Bodies that the tests of several formats send, and what all of them assert of one that is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode

IMAGE_MODEL = WorkerConfig.resolve({}, {})
VECTOR_MODEL = WorkerConfig.resolve({"input_shape": [4]}, {})
CHW = np.random.default_rng(0).random((3, 5, 6)).astype(np.float32)

Refused = tuple[bytes, str, int, str]
"""A body and its Content-Type; the status and a part of the message that it is answered with."""


def assert_refused(refused: Refused) -> None:
    """With the status and the words it says, by a model of images."""
    body, content_type, status, text = refused
    with pytest.raises(RowError, match=text) as caught:
        decode(bytearray(body), content_type, IMAGE_MODEL)
    assert caught.value.status == status


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def image(kind: str, size: tuple[int, int] = (300, 280), mode: str = "RGB") -> bytes:
    width, height = size
    rows = np.add.outer(np.arange(height), 2 * np.arange(width)).astype(np.uint8)  # modulo 256
    picture = Image.fromarray(np.stack([rows, rows[::-1], 255 - rows], -1)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()
