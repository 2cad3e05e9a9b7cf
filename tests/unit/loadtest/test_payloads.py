"""Bodies hold the picture they are made from, in every format."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from smartbatch_load.load.images import load_pictures, seeded_pictures
from smartbatch_load.load.payloads import FORMATS, PayloadSettings, check_formats, file_payloads, picture_payloads
from smartbatch_load.options import FORMATS_LISTED


def test_seeded_pictures_are_the_same_everywhere_and_differ_from_each_other() -> None:
    one, two = seeded_pictures(2, 7)
    again = seeded_pictures(2, 7)
    assert np.array_equal(one.pixels, again[0].pixels)
    assert not np.array_equal(one.pixels, two.pixels)
    assert not np.array_equal(one.pixels, seeded_pictures(1, 8)[0].pixels)
    assert one.pixels.shape == (3, 224, 224)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_one_payload_a_picture(name: str) -> None:
    payloads = picture_payloads(name, images=None, count=2, seed=0)
    assert [p.name for p in payloads] == [f"{name}:seed 0 picture 0", f"{name}:seed 0 picture 1"]
    assert payloads[0].body != payloads[1].body


def test_tensor_formats_hold_the_same_numbers() -> None:
    picture = seeded_pictures(1, 0)[0]
    wanted = picture.normalised()
    from_json = np.array(json.loads(FORMATS["json"].encode(picture))["data"], dtype=np.float32)
    from_msgpack = np.array(msgspec.msgpack.decode(FORMATS["msgpack"].encode(picture))["data"], dtype=np.float32)
    from_npy = np.load(io.BytesIO(FORMATS["npy-float"].encode(picture)))
    for got in (from_json, from_msgpack, from_npy):
        assert np.array_equal(got, wanted)
    assert np.array_equal(np.load(io.BytesIO(FORMATS["npy"].encode(picture))), picture.pixels)
    assert len(FORMATS["json"].encode(picture)) > 2_500_000


def test_normalised_pixels_are_imagenets() -> None:
    picture = seeded_pictures(1, 0)[0]
    back = picture.normalised()[1] * 0.224 + 0.456
    assert np.allclose(back * 255, picture.pixels[1], atol=1e-3)


def test_a_folder_of_pictures_is_read_in_order_and_jpegs_are_sent_as_they_are(tmp_path: Path) -> None:
    Image.new("RGB", (300, 400), "red").save(tmp_path / "b.jpg", quality=55)
    Image.new("RGBA", (50, 60), "blue").save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    first, second = load_pictures(tmp_path, 10)
    assert (first.name, second.name) == ("a.png", "b.jpg")
    assert second.jpeg == (tmp_path / "b.jpg").read_bytes()
    assert Image.open(io.BytesIO(first.jpeg)).format == "JPEG"
    assert first.pixels.shape == second.pixels.shape == (3, 224, 224)
    assert len(load_pictures(tmp_path, 1)) == 1


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture"):
        load_pictures(tmp_path, 1)
    with pytest.raises(ValueError, match="must be a folder"):
        load_pictures(tmp_path / "gone", 1)


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "body.JSON"
    path.write_text('{"data": [1]}')
    (payload,) = file_payloads([path])
    assert (payload.body, payload.content_type) == (b'{"data": [1]}', "application/json")
    with pytest.raises(ValueError, match=r"--body must be a file or a folder, got '.*gone\.json'"):
        file_payloads([tmp_path / "gone.json"])


def test_of_a_folder_all_files_are_sent_whatever_their_format(tmp_path: Path) -> None:
    kinds = {
        "a.npz": "application/x-npz",
        "b.wav": "audio/wav",
        "c.txt": "text/plain",
        "d.own": "application/octet-stream",
    }
    folder = tmp_path / "bodies"
    folder.mkdir()
    for name in (*kinds, ".hidden"):
        (folder / name).write_bytes(name.encode())
    found = file_payloads([folder, folder / "a.npz"])
    assert [payload.body.decode() for payload in found] == [*kinds, "a.npz"]
    assert [payload.content_type for payload in found[:4]] == list(kinds.values())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no file in"):
        file_payloads([tmp_path / "empty"])


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="got 'bmp'"):
        check_formats(["jpeg", "bmp"])
    with pytest.raises(ValueError, match="at least one"):
        check_formats([])
    with pytest.raises(ValueError, match="got 'bmp'"):
        PayloadSettings(formats=("bmp",))
    with pytest.raises(ValueError, match="at least one picture is needed, got 0"):
        PayloadSettings(num_images=0)


def test_files_take_the_place_of_formats(tmp_path: Path) -> None:
    pictures = PayloadSettings(formats=("npy", "jpeg"), num_images=1)
    assert pictures.sources == ("npy", "jpeg")
    assert pictures.only("npy").sources == ("npy",)
    path = tmp_path / "body.json"
    path.write_text("[1]")
    files = PayloadSettings(bodies=(path,))
    assert files.sources == files.only("file").sources == ("file",)
    assert [p.body for p in files.read("file")] == [b"[1]"]


def test_the_page_on_formats_names_what_is_sent() -> None:
    page = Path(__file__).parents[3] / "docs" / "formats.md"
    table = page.read_text(encoding="utf-8").partition("## What the load tests send")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) - {"--formats"} == set(FORMATS)


def test_what_has_no_name_of_its_own_is_told_by_a_remark() -> None:
    assert FORMATS_LISTED == "json, jpeg, npy (uint8), npy-float, msgpack, open-inference"
