"""Sound: WAV and FLAC bodies to float32 at the sample rate that the model was trained on.

`wav_files` and `flac_files` read headers, ours; `sounds` checks what they declare, has libsndfile decode the samples
and soxr resample them. Both libraries are the extra "audio", imported where a model takes sound.
"""
