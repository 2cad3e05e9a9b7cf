"""WAV and FLAC: samples at the model's rate, and sizes that a header may only claim."""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.formats.audio import flac_files, sounds, wav_files

RATE = 16_000
TONE = np.sin(np.arange(RATE) * 2 * np.pi * 440 / RATE).astype(np.float32) / 2
"""A second of the concert pitch."""
MONO: dict[str, Any] = {"input_shape": [None], "sample_rate": RATE}
CHANNELS: dict[str, Any] = {"input_shape": [None, None], "sample_rate": RATE}


def sound(samples: np.ndarray[Any, Any], kind: str = "WAV", subtype: str = "FLOAT", rate: int = RATE) -> bytes:
    """A file of samples [T] or [T, C]."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def read(body: bytes, section: dict[str, Any] = MONO) -> torch.Tensor:
    (item,) = decode(bytearray(body), "", WorkerConfig.resolve(section, {})).items
    assert isinstance(item, torch.Tensor)
    return item


def refusal(body: bytes, section: dict[str, Any] = MONO) -> tuple[int, str]:
    with pytest.raises(RowError) as caught:
        read(body, section)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    ("kind", "subtype", "step"),
    [
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 1e-7),
        ("WAV", "PCM_32", 1e-7),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "ULAW", 2**-5),
        ("WAV", "ALAW", 2**-5),
        ("WAVEX", "PCM_16", 2**-15),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
    ],
)
def test_every_way_to_write_samples(kind: str, subtype: str, step: float) -> None:
    item = read(sound(TONE, kind, subtype))
    assert (item.dtype, item.shape) == (torch.float32, (RATE,))
    assert np.abs(item.numpy() - TONE).max() <= step


def test_another_rate_is_resampled_and_keeps_its_pitch() -> None:
    samples = np.sin(np.arange(44_100) * 2 * np.pi * 440 / 44_100).astype(np.float32) / 2
    item = read(sound(samples, rate=44_100))
    assert item.shape == (RATE,)
    assert np.abs(item.numpy() - TONE)[200:-200].max() < 1e-3  # at its ends a filter sees silence


def test_channels_are_mixed_for_a_model_of_one_and_kept_for_others() -> None:
    stereo = np.stack([TONE, TONE / 2], 1)
    np.testing.assert_allclose(read(sound(stereo)).numpy(), TONE * 0.75, atol=1e-6)
    np.testing.assert_array_equal(read(sound(stereo), CHANNELS).numpy(), stereo.T)
    one = read(sound(stereo), {**CHANNELS, "input_shape": [1, None]})
    np.testing.assert_allclose(one.numpy(), TONE[None] * 0.75, atol=1e-6)
    status, message = refusal(sound(TONE), {**CHANNELS, "input_shape": [2, None]})
    assert (status, message) == (422, "the sound has 1 channels; the model takes 2")


def test_a_model_that_takes_none_says_so() -> None:
    status, message = refusal(sound(TONE), {})
    assert status == 415
    assert "sample_rate" in message


def test_a_stream_whose_end_was_not_known_is_read_to_its_end() -> None:
    body = bytearray(sound(TONE, subtype="PCM_16"))
    body[40:44] = b"\xff\xff\xff\xff"
    assert read(bytes(body)).shape == (RATE,)
    flac = bytearray(sound(TONE, "FLAC", "PCM_16"))
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
    status, message = refusal(bytes(flac))  # libsndfile cannot
    assert (status, "written into a pipe" in message) == (400, True)
    assert refusal(bytes(body), {**MONO, "max_elements": 100})[0] == 413


def hours(kind: str) -> bytes:
    """A file of 100 bytes that says it lasts for hours."""
    if kind == "FLAC":
        body = bytearray(sound(TONE, "FLAC", "PCM_16"))
        body[21:26] = bytes([body[21] | 0x0F]) + b"\xff" * 4
    else:
        body = bytearray(sound(TONE, subtype="PCM_16"))
        body[40:44] = struct.pack("<I", 2**32 - 2)
    return bytes(body[:100])


def test_what_a_header_claims_is_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "_decode", None)
    status, message = refusal(hours("WAV"))
    assert (status, "cut off" in message) == (400, True)
    status, message = refusal(hours("FLAC"))
    assert (status, "max_elements" in message) == (413, True)
    assert refusal(sound(TONE), {**MONO, "max_elements": 100})[0] == 413
    status, message = refusal(sound(TONE, rate=1_000), {**MONO, "sample_rate": 96_000, "max_elements": 2**18})
    assert (status, "resampled" in message) == (413, True)


BROKEN = {
    "cut off": (sound(TONE)[:-8], 400, "cut off"),
    "FLAC cut off": (sound(TONE, "FLAC", "PCM_16")[:-50], 400, "cut off"),
    "FLAC of which the head is there": (sound(TONE, "FLAC", "PCM_16")[:20], 400, "STREAMINFO"),
    "compressed": (sound(TONE, subtype="IMA_ADPCM"), 400, "PCM of 8"),
    "no samples": (sound(TONE[:0]), 400, "no samples"),
    "a head alone": (b"RIFF\0\0\0\0WAVE", 400, "no samples"),
    "a rate of one": (sound(TONE, rate=1), 400, "samples a second"),
    "nine channels": (sound(np.zeros((10, 9), np.float32)), 400, "at most 8"),
    "NaN": (sound(np.full(10, np.nan, np.float32)), 422, "NaN"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sounds_are_refused(name: str) -> None:
    body, status, words = BROKEN[name]
    found, message = refusal(body)
    assert (found, words in message) == (status, True), message


def outcome(body: bytes) -> int:
    """The status it is answered with."""
    try:
        assert torch.isfinite(read(body)).all()
    except RowError as error:
        return error.status
    return 200


def test_noise_behind_a_good_header_is_refused_or_read_and_nothing_else_happens() -> None:
    dice = np.random.default_rng(0)
    for kind, head in (("FLAC", 42), ("WAV", 44)):
        body = bytearray(sound(TONE, kind, "PCM_16"))
        for _ in range(40):
            at = dice.integers(head, len(body), 20)
            for place in at:
                body[place] = dice.integers(256)
            assert outcome(bytes(body)) < 500


def test_headers_say_what_libsndfile_says() -> None:
    for kind, subtype, read_header in (
        ("WAV", "PCM_24", wav_files.read_header),
        ("FLAC", "PCM_16", flac_files.read_header),
    ):
        header = read_header(sound(np.zeros((77, 3), np.float32), kind, subtype, 22_050))
        assert (header.rate, header.num_channels, header.num_frames) == (22_050, 3, 77)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    sounds.prepare(WorkerConfig.resolve({}, {}))  # a model without sound needs none
    with pytest.raises(ImportError, match=r"pip install 'smartbatch\[audio\]'"):
        sounds.prepare(WorkerConfig.resolve(MONO, {}))
