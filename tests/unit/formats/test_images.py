"""images: a model is shown what people see, whatever way the file keeps it and whatever stands beside it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.formats.images import exif, jpeg_files
from torchvision.transforms.v2 import functional as transforms

from tests.unit.formats.bodies import IMAGE_MODEL, Refused, assert_refused, image

SIDE = 64
SHOWN = {"image_resize": SIDE, "image_crop": SIDE}
COLOUR = WorkerConfig.resolve(SHOWN, {})
GREY = WorkerConfig.resolve({**SHOWN, "input_shape": [1, None, None], "image_mean": [0.5], "image_std": [0.5]}, {})
BOTH = pytest.mark.parametrize("config", [COLOUR, GREY], ids=["three channels", "one channel"])
A_LEVEL = 1 / 255


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def seen(body: bytes, config: WorkerConfig = COLOUR) -> torch.Tensor:
    """[C, 64, 64], 0 to 1."""
    (item,) = decode(bytearray(body), "", config).items
    pixels: torch.Tensor = item.float() / 255
    return pixels


def half() -> Image.Image:
    """Black above, white below."""
    image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, SIDE, SIDE // 2))
    return image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, colour_type: int, rows: bytes, before: bytes = b"", side: int = SIDE) -> bytes:
    """A PNG of samples as they stand in the file, which Pillow writes in a few modes only."""
    header = struct.pack(">IIBBBBB", side, side, bits, colour_type, 0, 0, 0)
    length = len(rows) // side
    filtered = b"".join(b"\0" + rows[at : at + length] for at in range(0, len(rows), length))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    first, data, end = (png_chunk(*chunk) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + first + before + data + end


RAMP = np.linspace(0, 65535, SIDE * SIDE).astype(">u2").reshape(SIDE, SIDE)
OPAQUE = np.full_like(RAMP, 65535)
SIXTEEN_BITS = {
    "grey": png(16, 0, RAMP.tobytes()),
    "grey, one value transparent": png(16, 0, RAMP.tobytes(), png_chunk(b"tRNS", struct.pack(">H", 65535))),
    "grey and alpha": png(16, 4, np.stack([RAMP, OPAQUE], -1).astype(">u2").tobytes()),
    "colour": png(16, 2, np.stack([RAMP] * 3, -1).astype(">u2").tobytes()),
    "colour and alpha": png(16, 6, np.stack([RAMP] * 3 + [OPAQUE], -1).astype(">u2").tobytes()),
}


@BOTH
@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_16_bits_are_seen_as_8(name: str, config: WorkerConfig) -> None:
    """value / 257; every value from 255 on used to be white."""
    expected = torch.from_numpy(RAMP.astype(np.float32) / 65535).expand(len(config.image_mean), SIDE, SIDE)
    shown = seen(SIXTEEN_BITS[name], config)
    assert (shown - expected).abs().max() <= A_LEVEL
    assert abs(float(shown.mean() - expected.mean())) < A_LEVEL / 2


@BOTH
@pytest.mark.parametrize("value", [0, 100, 255, 1000, 32768, 65535])
def test_a_16_bit_grey_has_its_brightness(value: int, config: WorkerConfig) -> None:
    body = encoded(Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)), "PNG")
    assert (seen(body, config) - value / 65535).abs().max() <= A_LEVEL / 2 + 1e-6


PALETTE = half().convert("P")
MODES = {
    "JPEG L": encoded(half().convert("L"), "JPEG", quality=95),
    "JPEG YCbCr": encoded(half(), "JPEG", quality=95),
    "JPEG RGB": encoded(half(), "JPEG", quality=95, keep_rgb=True),
    "JPEG CMYK": encoded(half().convert("CMYK"), "JPEG", quality=95),
    "JPEG progressive": encoded(half(), "JPEG", quality=95, progressive=True),
    "PNG 1": encoded(half().convert("1"), "PNG"),
    "PNG L": encoded(half().convert("L"), "PNG"),
    "PNG L of 2 bits": png(2, 0, b"\x00" * (SIDE // 4 * 32) + b"\xff" * (SIDE // 4 * 32)),
    "PNG L of 4 bits": png(4, 0, b"\x00" * (SIDE // 2 * 32) + b"\xff" * (SIDE // 2 * 32)),
    "PNG LA": encoded(half().convert("LA"), "PNG"),
    "PNG P": encoded(PALETTE, "PNG"),
    "PNG P of 1 bit": encoded(half().quantize(2), "PNG", bits=1),
    "PNG RGB": encoded(half(), "PNG"),
    "PNG RGBA": encoded(half().convert("RGBA"), "PNG"),
    "PNG I;16": encoded(half().convert("I;16").point(lambda value: value * 257), "PNG"),
    "WebP": encoded(half(), "WEBP", quality=95),
    "WebP lossless": encoded(half(), "WEBP", lossless=True),
    "WebP with alpha": encoded(half().convert("RGBA"), "WEBP", lossless=True, exact=True),
    "WebP animation": encoded(half(), "WEBP", save_all=True, append_images=[half().rotate(180)], lossless=True),
    "PNG animation": encoded(half(), "PNG", save_all=True, append_images=[half().rotate(180)]),
}


@BOTH
@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_seen_alike(name: str, config: WorkerConfig) -> None:
    shown = seen(MODES[name], config)
    assert shown.shape == (len(config.image_mean), SIDE, SIDE)
    assert shown[:, : SIDE // 2 - 8].max() <= 3 * A_LEVEL
    assert shown[:, SIDE // 2 + 8 :].min() >= 1 - 3 * A_LEVEL


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 98, "subsampling": 0}),
        ("JPEG", "RGB", {"quality": 98, "keep_rgb": True}),
        ("JPEG", "CMYK", {"quality": 98}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_colours_stay_apart(kind: str, mode: str, options: dict[str, Any]) -> None:
    """Red is not blue, and what Adobe's programs store inverted is not inverted."""
    body = encoded(Image.new("RGB", (SIDE, SIDE), (200, 100, 50)).convert(mode), kind, **options)
    assert (seen(body).mean((1, 2)) - torch.tensor([200, 100, 50]) / 255).abs().max() < 4 * A_LEVEL


def palette_3() -> Image.Image:
    """All pixels of the palette's fourth colour."""
    image = Image.new("P", (SIDE, SIDE), 3)
    image.putpalette([9, 9, 9] * 4)
    return image


TRANSPARENT = {
    "RGBA": encoded(Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 0)), "PNG"),
    "LA": encoded(Image.new("LA", (SIDE, SIDE), (9, 0)), "PNG"),
    "WebP": encoded(Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 0)), "WEBP", lossless=True, exact=True),
    "L of 8 bits": png(8, 0, b"\x09" * SIDE * SIDE, png_chunk(b"tRNS", b"\0\x09")),
    "L of 4 bits": png(4, 0, b"\x99" * (SIDE // 2) * SIDE, png_chunk(b"tRNS", b"\0\x09")),
    "L of 2 bits": png(2, 0, b"\xaa" * (SIDE // 4) * SIDE, png_chunk(b"tRNS", b"\0\x02")),
    "1": png(1, 0, b"\0" * (SIDE // 8) * SIDE, png_chunk(b"tRNS", b"\0\0")),
    "I;16": png(16, 0, struct.pack(">H", 900) * SIDE * SIDE, png_chunk(b"tRNS", struct.pack(">H", 900))),
    "RGB": png(8, 2, b"\x09\x0a\x0b" * SIDE * SIDE, png_chunk(b"tRNS", b"\0\x09\0\x0a\0\x0b")),
    "RGB of 16 bits": png(
        16, 2, b"\x09\x01\x0a\x02\x0b\x03" * SIDE * SIDE, png_chunk(b"tRNS", b"\x09\x01\x0a\x02\x0b\x03")
    ),
    "P, one entry": encoded(palette_3(), "PNG", transparency=3),
    "P, alpha an entry": encoded(palette_3(), "PNG", transparency=b"\xff\x80\x80\0"),
}


@BOTH
@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_shows_the_background(name: str, config: WorkerConfig) -> None:
    assert (seen(TRANSPARENT[name], config) == 1).all()
    black = WorkerConfig.resolve({**SHOWN, "image_background": "black"}, {})
    assert (seen(TRANSPARENT[name], black) == 0).all()


def test_half_opaque_is_half_of_each() -> None:
    orange = WorkerConfig.resolve({**SHOWN, "image_background": [255, 128, 0]}, {})
    body = encoded(Image.new("RGBA", (SIDE, SIDE), (0, 0, 255, 128)), "PNG")
    assert ((seen(body, orange) * 255).mean((1, 2)) - torch.tensor([127.0, 64.0, 128.0])).abs().max() <= 1


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif_of(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x010F] = "a camera"
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_pictures_are_upright(kind: str, options: dict[str, Any], orientation: int) -> None:
    """As Pillow turns them, pixel by pixel, then torchvision's own preset."""
    rows = np.add.outer(3 * np.arange(70), 2 * np.arange(90)) % 256
    stored = Image.fromarray(np.stack([rows, rows[::-1], 255 - rows], -1).astype(np.uint8))
    body = encoded(stored, kind, exif=exif_of(orientation), **options)
    as_stored = Image.open(io.BytesIO(body)).convert("RGB")
    turn = TURNS[orientation]
    upright = as_stored if turn is None else as_stored.transpose(turn)
    pixels = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    expected = transforms.center_crop(transforms.resize(pixels, [SIDE], antialias=True), [SIDE, SIDE])
    assert torch.equal(decode(body, "", COLOUR).items[0], expected)
    assert upright.tobytes() == ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB").tobytes()

    ignoring = WorkerConfig.resolve({**SHOWN, "image_orientation": "ignore"}, {})
    pixels = torch.from_numpy(np.array(as_stored)).permute(2, 0, 1)
    expected = transforms.center_crop(transforms.resize(pixels, [SIDE], antialias=True), [SIDE, SIDE])
    assert torch.equal(decode(body, "", ignoring).items[0], expected)


def test_a_large_picture_is_turned_band_by_band() -> None:
    stored = half().resize((1800, 1700)).transpose(Image.Transpose.ROTATE_90)
    shown = seen(encoded(stored, "JPEG", exif=exif_of(6), quality=95))
    assert shown[:, : SIDE // 2 - 1].max() <= 3 * A_LEVEL
    assert shown[:, SIDE // 2 + 1 :].min() >= 1 - 3 * A_LEVEL


def tiff(entries: bytes, num_entries: int, endian: str = "<", start: int = 8) -> bytes:
    magic = b"II*\0" if endian == "<" else b"MM\0*"
    return magic + struct.pack(endian + "IH", start, num_entries) + entries


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_both_byte_orders_of_exif_are_read(endian: str, prefix: bytes) -> None:
    other = struct.pack(endian + "HHII", 0x0100, 4, 1, 6)
    short = struct.pack(endian + "HHIHxx", 0x0112, 3, 1, 6)
    long = struct.pack(endian + "HHII", 0x0112, 4, 1, 8)
    assert exif.orientation(prefix + tiff(other + short, 2, endian)) == 6
    assert exif.orientation(prefix + tiff(long, 1, endian)) == 8


SHORT = struct.pack("<HHIHxx", 0x0112, 3, 1, 6)
CORRUPT_EXIF = {
    "nothing": b"",
    "junk": b"\xff" * 40,
    "no directory": b"II*\0\xff\xff\xff\xff",
    "a directory cut off": tiff(SHORT[:7], 1),
    "entries it does not have": tiff(struct.pack("<HHII", 1, 3, 1, 1), 65535),
    "orientation 0": tiff(struct.pack("<HHIHxx", 0x0112, 3, 1, 0), 1),
    "orientation 9": tiff(struct.pack("<HHIHxx", 0x0112, 3, 1, 9), 1),
    "orientation as text": tiff(struct.pack("<HHI4s", 0x0112, 2, 1, b"6\0\0\0"), 1),
    "a directory in a circle": tiff(struct.pack("<HHII", 0x8769, 4, 1, 8), 1),
    "a resolution divided by zero": tiff(struct.pack("<HHII", 0x011A, 5, 1, 26), 1) + bytes(20),
}


@pytest.mark.parametrize("name", CORRUPT_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_corrupt_exif_block_fails_no_picture(kind: str, name: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    block = CORRUPT_EXIF[name]
    if kind == "JPEG":
        plain = encoded(half(), kind, quality=95)
        body = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + plain[2:]
    else:
        body = encoded(half(), kind, exif=b"Exif\0\0" + (block or b"\0"), **options)
    shown = seen(body)
    assert shown[:, : SIDE // 2 - 8].max() <= 3 * A_LEVEL
    assert shown[:, SIDE // 2 + 8 :].min() >= 1 - 3 * A_LEVEL


JPEG = encoded(half(), "JPEG", quality=95)
PROGRESSIVE = encoded(half(), "JPEG", quality=95, progressive=True)
VIDEO = b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 100_000
APPENDED = {
    "a film": JPEG + VIDEO,
    "a second JPEG": JPEG + JPEG,
    "many progressive JPEGs": PROGRESSIVE * 50,
    "one behind a progressive": PROGRESSIVE + VIDEO,
    "one behind a PNG": encoded(half(), "PNG") + VIDEO,
    "one behind a WebP": encoded(half(), "WEBP", lossless=True) + VIDEO,
}


@pytest.mark.parametrize("name", APPENDED)
def test_what_is_appended_to_a_picture_is_not_looked_at(name: str) -> None:
    shown = seen(APPENDED[name])
    assert shown[:, : SIDE // 2 - 8].max() <= 3 * A_LEVEL
    assert shown[:, SIDE // 2 + 8 :].min() >= 1 - 3 * A_LEVEL


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def test_scans_are_those_of_the_picture() -> None:
    thumbnail = segment(0xE1, b"Exif\0\0" + PROGRESSIVE)
    restarts = encoded(Image.effect_noise((300, 300), 90), "JPEG", quality=95, restart_marker_blocks=1)
    for body, num_scans in (
        (JPEG, 1),
        (PROGRESSIVE, 10),
        (PROGRESSIVE + VIDEO, 10),
        (JPEG[:2] + thumbnail + segment(0xFE, b"\xff\xda" * 99) + JPEG[2:], 1),
        (restarts, 1),
        (b"\xff\xd8\xff\xe0junk", 0),
        (b"\xff\xd8\xff", 0),
        (restarts[:-200], 1),
    ):
        file = jpeg_files.read(bytearray(body), 64)
        assert file.num_scans == num_scans
    assert b"\xff\xda" * 9 not in jpeg_files.read(JPEG[:2] + thumbnail + JPEG[2:], 64).picture


@pytest.mark.parametrize(
    ("options", "is_usual"),
    [
        ({}, True),
        ({"subsampling": 0}, True),
        ({"subsampling": 1, "optimize": True}, True),
        ({"restart_marker_blocks": 1}, True),
        ({"progressive": True}, False),
        ({"keep_rgb": True}, False),
    ],
    ids=str,
)
def test_usual_files_are_told_from_others(options: dict[str, Any], is_usual: bool) -> None:
    body = encoded(half(), "JPEG", **options)
    file = jpeg_files.read(body, 64)
    assert (file.is_usual, file.size) == (is_usual, half().size)
    assert not jpeg_files.read(body[:-2], 64).is_usual
    assert jpeg_files.read(b"\xff\xd8\xff", 64).size == (0, 0)
    for mode in ("L", "CMYK"):
        assert not jpeg_files.read(encoded(half().convert(mode), "JPEG"), 64).is_usual


@pytest.mark.parametrize("disguise", [b"", b"\xff\x02\xff\xff", b"\xff\xff\xff", b"\xff\x00\xff\xd3"])
def test_no_scan_hides_from_the_count(disguise: bytes) -> None:
    """libjpeg steps over invalid and restart markers in the data, and meets the scans behind them."""
    scans = b"\xff\xda\x00\x02" * 100
    with pytest.raises(RowError, match="more than 64 scans"):
        jpeg_files.read(JPEG[:-2] + disguise + scans + b"\xff\xd9", 64)


def test_coefficients_are_counted_where_they_are_kept() -> None:
    assert jpeg_files.read(JPEG, 64).coefficient_bytes_per_pixel == 0
    for options, expected in (({"subsampling": 0}, 6), ({"subsampling": 1}, 4), ({"subsampling": 2}, 3)):
        body = encoded(half(), "JPEG", progressive=True, **options)
        assert jpeg_files.read(body, 64).coefficient_bytes_per_pixel == expected


@pytest.mark.parametrize(
    ("text", "profile"), [(3 << 20, 0), (0, 3 << 20), (100 << 20, 0)], ids=["text", "profile", "very long text"]
)
def test_a_png_with_much_text_or_a_large_profile_is_answered(text: int, profile: int) -> None:
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_text("comment", "a" * text, zip=True)
        info.add_itxt("further", "ä" * (text // 2), zip=True)
    assert torch.equal(
        seen(encoded(half(), "PNG", pnginfo=info, icc_profile=bytes(profile))), seen(encoded(half(), "PNG"))
    )


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 200_000,
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"tEXt", b"") * 200_000,
        MODES["WebP lossless"] + b"JUNK\0\0\0\0" * 200_000,
    ],
    ids=["JPEG", "PNG", "WebP"],
)
def test_files_of_too_many_parts_are_refused(body: bytes) -> None:
    with pytest.raises(RowError, match="more than") as caught:
        decode(bytearray(body), "", COLOUR)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", {"lossless": True}), ("JPEG", {"progressive": True, "subsampling": 0})]
)
def test_what_takes_more_bytes_to_decode_may_have_fewer_pixels(kind: str, options: dict[str, Any]) -> None:
    config = WorkerConfig.resolve({**SHOWN, "max_pixels": 10_000}, {})
    seen(encoded(Image.new("RGB", (100, 100)), "PNG"), config)
    seen(encoded(Image.new("RGB", (70, 70)), kind, **options), config)
    with pytest.raises(RowError, match="bytes to decode") as caught:
        seen(encoded(Image.new("RGB", (100, 100)), kind, **options), config)
    assert caught.value.status == 413


def test_bad_image_settings_are_named() -> None:
    for section, said in (
        ({"image_orientation": "up"}, "image_orientation must be one of exif, ignore"),
        ({"image_background": "mauve"}, "image_background"),
        ({"image_background": [1, 2]}, "image_background must be white, black or three numbers"),
        ({"image_background": [1, 2, 256]}, "image_background must be white, black or three numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            WorkerConfig.resolve(section, {})
    assert WorkerConfig.resolve({}, {"SMARTBATCH_IMAGE_BACKGROUND": "0, 128, 255"}).image_background == (0, 128, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_match_torchvisions_own_preset(kind: str) -> None:
    body = image(kind)
    decoded = decode(body, "", IMAGE_MODEL)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body)).convert("RGB"))).permute(2, 0, 1)
    expected = transforms.center_crop(transforms.resize(pixels, [256], antialias=True), [224, 224])
    assert decoded.is_image
    assert decoded.items[0].dtype == torch.uint8
    assert torch.equal(decoded.items[0], expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_rare_colour_modes_are_read(mode: str) -> None:
    body = image("PNG", mode="RGB" if mode == "I;16" else mode)
    if mode == "I;16":
        stream = io.BytesIO()
        Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(stream, "PNG")
        body = stream.getvalue()
    assert decode(body, "", IMAGE_MODEL).items[0].shape == (3, 224, 224)


def test_cmyk_jpegs_are_read() -> None:
    assert decode(image("JPEG", mode="CMYK"), "", IMAGE_MODEL).items[0].shape == (3, 224, 224)


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + end


def blank_jpeg(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "JPEG")
    return stream.getvalue()


BROKEN: dict[str, Refused] = {
    "JPEG magic and nothing else": (b"\xff\xd8\xff\xe0junk", "", 400, "header is corrupt"),
    "truncated JPEG": (image("JPEG")[:2000], "", 400, "truncated"),
    "truncated PNG": (image("PNG")[:400], "", 400, "."),
    "truncated WebP": (image("WEBP")[:200], "", 400, "."),
    "JPEG of a thousand scans": (image("JPEG")[:-2] + b"\xff\xda\0\2" * 1000, "", 400, "scans"),
    "large JPEG of many scans": (blank_jpeg(3500)[:-2] + b"\xff\xda\0\2" * 60, "", 413, "passes"),
    "PNG of 10 gigapixels": (png_header(100_000, 100_000), "", 413, "max_pixels"),
    "thin strip": (image("PNG", (5000, 2)), "", 413, "1:50"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_say_what_is_wrong(name: str) -> None:
    assert_refused(BROKEN[name])
