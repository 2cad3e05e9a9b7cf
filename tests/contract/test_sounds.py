"""Sound through the whole handler: many lengths share a forward, and each is answered as it is alone."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.contract.in_process import Worker, request

MODEL = """
import torch


class Loudness(torch.nn.Module):
    '''Two numbers a sound that padding with silence does not change: its energy, and its loudest moment.'''

    num_forwards = 0

    def forward(self, samples):
        Loudness.num_forwards += 1
        return torch.stack([(samples**2).sum(1), samples.abs().amax(1)], 1)
"""
SAMPLES = {"samples": {"dtype": "float32", "shape": ["T"], "pad": 0}}


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    (tmp_path / "model.py").write_text(MODEL)
    section: dict[str, Any] = {
        "model": "model.py",
        "inputs": SAMPLES,
        "input_shape": None,
        "sample_rate": 16_000,
        "micro_batch": 16,
    }
    section["lengths"] = {"T": [8_000, 12_000, 16_000]}  # so that those between two of them share a forward
    return Worker(tmp_path, section, batch_size=16)


def sound(num_samples: int, kind: str = "WAV", rate: int = 16_000) -> tuple[np.ndarray[Any, Any], bytes]:
    samples = np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype(np.float32)
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype="PCM_16")
    return np.round(samples * 32767) / 32768, stream.getvalue()


def test_sounds_of_many_lengths_share_few_forwards(worker: Worker) -> None:
    lengths = [8_000 + 500 * number for number in range(16)]
    sounds = [sound(length, "FLAC" if length % 1000 else "WAV") for length in lengths]
    replies = worker.answer(*(request(body, "") for _, body in sounds))
    assert {reply.status for reply in replies} == {200}, replies[0].body
    for (samples, _), reply in zip(sounds, replies, strict=True):
        np.testing.assert_allclose(reply.json["result"], [(samples**2).sum(), abs(samples).max()], rtol=1e-3)
    assert sys.modules["smartbatch_user_model"].Loudness.num_forwards <= 4


def test_a_bad_sound_fails_alone(worker: Worker) -> None:
    _, good = sound(9_000)
    before, bad, after = worker.answer(request(good, ""), request(good[:-100], "audio/wav"), request(good, ""))
    assert bad.error == (400, "malformed")
    assert before.status == after.status == 200
