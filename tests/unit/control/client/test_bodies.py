"""What a caller has, as bytes."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from smartbatch.client import encode_body


def test_files_go_by_extension(tmp_path: Path) -> None:
    for name, kind in [
        ("a.JPG", "image/jpeg"),
        ("a.npy", "application/x-npy"),
        ("a.npz", "application/x-npz"),
        ("a.safetensors", "application/x-safetensors"),
        ("a.dat", "application/octet-stream"),
    ]:
        (tmp_path / name).write_bytes(b"abc")
        assert encode_body(tmp_path / name) == (b"abc", kind)


@pytest.mark.parametrize("array", [np.arange(3, dtype=np.uint8), torch.arange(3, dtype=torch.uint8)], ids=["np", "pt"])
def test_arrays_go_as_npy(array: Any) -> None:
    content, kind = encode_body(array)
    assert kind == "application/x-npy"
    loaded = np.load(io.BytesIO(content))
    assert (loaded.dtype, loaded.tolist()) == (np.uint8, [0, 1, 2])


def test_a_tensor_that_wants_a_gradient_goes_too() -> None:
    content, _ = encode_body(torch.ones(2, requires_grad=True))
    assert np.load(io.BytesIO(content)).tolist() == [1, 1]


def test_arrays_by_name_go_as_npz() -> None:
    content, kind = encode_body({"ids": np.arange(3), "file": torch.ones(2, dtype=torch.bool), "x": 0.5})
    assert kind == "application/x-npz"
    named = np.load(io.BytesIO(content))
    assert {name: named[name].tolist() for name in named} == {"ids": [0, 1, 2], "file": [True, True], "x": 0.5}
    assert named["ids"].dtype == np.int64


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK"])
def test_pictures_go_as_png_without_loss(mode: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[274] = 6
    picture.info["exif"] = exif.tobytes()
    content, kind = encode_body(picture)
    assert kind == "image/png"
    with Image.open(io.BytesIO(content)) as sent:
        wanted = picture if mode != "CMYK" else picture.convert("RGB")
        assert np.array_equal(np.asarray(sent), np.asarray(wanted))
        assert sent.getexif()[274] == 6


def test_several_pictures_are_several_items() -> None:
    content, kind = encode_body([Image.new("RGB", (2, 2)), Image.new("L", (3, 3))])
    assert kind == "application/json"
    files = [base64.b64decode(item["b64"]) for item in json.loads(content)["instances"]]
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(2, 2), (3, 3)]


def test_texts() -> None:
    assert encode_body("good film") == (b'{"text": "good film"}', "application/json")
    assert encode_body(["good", "bad"]) == (b'{"text": ["good", "bad"]}', "application/json")


def test_the_rest() -> None:
    assert encode_body(b"x") == (b"x", "application/octet-stream")
    assert encode_body({"inputs": []}) == (b'{"inputs": []}', "application/json")
    assert encode_body([]) == (b'{"data": []}', "application/json")
    assert encode_body(2.5) == (b'{"data": 2.5}', "application/json")


@pytest.mark.parametrize(("body", "text"), [(object(), "got object"), ([np.ones(2)], "numpy.stack")])
def test_what_cannot_be_sent(body: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        encode_body(body)
