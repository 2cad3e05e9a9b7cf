"""WAV and FLAC over HTTP: sixteen lengths at once, in few forwards."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile

from tests.e2e.models.model_server import ModelServer, num_forwards, results

LOUDNESS = """
import torch

class Loudness(torch.nn.Module):
    def forward(self, samples):
        return (samples**2).sum(1, keepdim=True)
"""
NUM_SOUNDS = 16


@pytest.fixture(scope="module")
def server(models: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "loudness.py").write_text(LOUDNESS)
    soundfile.write(folder / "example.wav", np.zeros(8_000), 16_000)
    models.archive(
        "loudness",
        model_file=folder / "loudness.py",
        inputs=("samples:float32:T:0",),
        lengths=("T=8000,12000,16000",),
        overrides={"sample_rate": "16000", "micro_batch": str(NUM_SOUNDS)},
        example=folder / "example.wav",
    )
    # A batch of all of them goes at once; a machine may be busy while they come.
    with models.serving("loudness", batch_size=NUM_SOUNDS, max_batch_delay_ms=3000):
        yield models


def test_sounds_of_sixteen_lengths_share_four_forwards(server: ModelServer) -> None:
    sounds = [
        np.random.default_rng(n).uniform(-0.9, 0.9, 8_000 + 500 * n).astype(np.float32) for n in range(NUM_SOUNDS)
    ]
    bodies = []
    for number, samples in enumerate(sounds):
        stream = io.BytesIO()
        soundfile.write(stream, samples, 16_000, format="FLAC" if number % 2 else "WAV", subtype="PCM_16")
        bodies.append({"data": stream.getvalue()})
    replies = server.at_once("loudness", bodies)
    for samples, answer in zip(sounds, results(replies), strict=True):
        assert answer == [pytest.approx(float((samples**2).sum()), rel=1e-3)]
    assert round(num_forwards(replies)) <= 4  # one for each length that is padded to


def test_a_bad_sound_is_refused_in_words(server: ModelServer) -> None:
    reply = server.post("loudness", data=b"RIFF\xff\xff\xff\xffWAVEfmt ")
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["message"]
