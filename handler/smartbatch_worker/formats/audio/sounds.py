"""Sounds of either format to float32 samples at the model's rate, -1 to 1 where the file has whole numbers.

All that takes memory is known from the header, and refused there: a hundred bytes may declare hours. What a header
leaves open is counted while it is decoded, a block at a time.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import Size, Sizes
from smartbatch_worker.errors import BodyTooLarge, MalformedBody, UnknownFormat, WrongShape
from smartbatch_worker.formats.audio import flac_files, wav_files
from smartbatch_worker.formats.byte_budget import ByteBudget
from smartbatch_worker.formats.limits import check_count, first_line

if TYPE_CHECKING:
    from smartbatch_worker.formats.audio.header import Header

MIN_RATE, MAX_RATE = 1_000, 768_000  # a telephone has 8,000; a rate of 1 would be resampled to hours
MAX_CHANNELS = 8  # FLAC's own
_BLOCK_FRAMES = 2**16
_BYTES_PER_SAMPLE = 3 * 4  # blocks, the whole of them, and what is resampled
_budget = ByteBudget()


def prepare(config: WorkerConfig) -> None:
    """Import now what sound needs, where the model takes any.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    if config.sample_rate is not None:
        _libraries()


def read_wav(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """A whole WAV file, as `_read` has it."""
    _check_takes_sound(config)
    return _read(body, wav_files.read_header(body), config)


def read_flac(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """A whole FLAC file, as `_read` has it."""
    _check_takes_sound(config)
    return _read(body, flac_files.read_header(body), config)


def _read(body: bytes | bytearray, header: Header, config: WorkerConfig) -> torch.Tensor:
    """Decode, mix down where the model takes one channel, resample.

    Returns:
        float32 [T], or [C, T] for a model of such.

    Raises:
        MalformedBody: the file is corrupt or cut off.
        BodyTooLarge: more than max_elements samples, as sent or as resampled.
        WrongShape: the model takes another number of channels.
    """
    assert config.sample_rate is not None
    shape = _shape(config)
    wanted = shape[0] if len(shape) == 2 else 1
    _check(header, wanted, config)
    num_samples = config.max_elements if header.num_frames is None else header.num_frames * header.num_channels
    with _budget.holding(_BYTES_PER_SAMPLE * num_samples, _BYTES_PER_SAMPLE * config.max_elements):
        samples = _decode(body, header, config.max_elements)  # [T, C]
        if samples.shape[0] == 0:
            raise MalformedBody("the sound has no samples")
        _check_resampled(samples.shape[0], header, config)
        if wanted == 1 and header.num_channels > 1:
            samples = samples.mean(axis=1, keepdims=True)
        if header.rate != config.sample_rate:
            _, soxr = _libraries()
            samples = soxr.resample(samples, header.rate, config.sample_rate)
    channels = np.ascontiguousarray(samples.T)
    return torch.from_numpy(channels[0] if len(shape) == 1 else channels)


def _check(header: Header, wanted: Size, config: WorkerConfig) -> None:
    """Refuse what the header alone tells is too much, or nothing for this model."""
    if not MIN_RATE <= header.rate <= MAX_RATE:
        raise MalformedBody(f"the sound has {header.rate} samples a second; accepted are {MIN_RATE} to {MAX_RATE}")
    if header.num_channels > MAX_CHANNELS:
        raise MalformedBody(f"the sound has {header.num_channels} channels; at most {MAX_CHANNELS} are accepted")
    if isinstance(wanted, int) and wanted not in (1, header.num_channels):
        raise WrongShape(f"the sound has {header.num_channels} channels; the model takes {wanted}")
    if header.num_frames is not None:
        check_count(header.num_frames * header.num_channels, config.max_elements)
        _check_resampled(header.num_frames, header, config)


def _check_resampled(num_frames: int, header: Header, config: WorkerConfig) -> None:
    count = num_frames * header.num_channels * (config.sample_rate or 0) // header.rate
    if count > config.max_elements:
        raise BodyTooLarge(
            f"resampled to {config.sample_rate} Hz the sound has {count} samples; at most {config.max_elements} are "
            "accepted (max_elements)"
        )


def _decode(body: bytes | bytearray, header: Header, max_elements: int) -> np.ndarray[Any, Any]:
    """float32 [T, C], as libsndfile reads it."""
    soundfile, _ = _libraries()
    blocks, num_frames = [], 0
    try:
        with soundfile.SoundFile(io.BytesIO(body)) as file:
            if (file.samplerate, file.channels) != (header.rate, header.num_channels):
                raise MalformedBody("the sound's header says two things at once")
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                num_frames += len(block)
                check_count(num_frames * header.num_channels, max_elements)
                blocks.append(block)
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError, ValueError) as error:
        raise MalformedBody(f"the sound is corrupt or cut off: {first_line(error)}") from None
    if header.num_frames is not None and num_frames != header.num_frames:
        raise MalformedBody(
            f"the sound is corrupt or cut off: it declares {header.num_frames} samples a channel and has {num_frames}"
        )
    return np.concatenate(blocks) if blocks else np.empty((0, header.num_channels), np.float32)


def _shape(config: WorkerConfig) -> Sizes:
    """Of what the model takes: [T], or [C, T]; empty where it is no sound."""
    if config.inputs is not None:
        shape = config.inputs[0].shape if len(config.inputs) == 1 else ()
    else:
        shape = (None,) if config.input_shape is None else config.input_shape
    return shape if len(shape) in (1, 2) else ()


def _check_takes_sound(config: WorkerConfig) -> None:
    if config.sample_rate is None or not _shape(config):
        raise UnknownFormat("this model takes no sound; that needs sample_rate, and one input of shape [T] or [C, T]")


def _libraries() -> tuple[Any, Any]:
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise ImportError(f"reading sound needs {error.name}: pip install 'smartbatch[audio]'") from error
    return soundfile, soxr
