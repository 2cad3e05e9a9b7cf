"""One target per body format, all pictures one, and further ones. A run is a finding where it breaks a promise:

a body is decoded, or refused by a RowError of the 4xx kind whose answer is small JSON; nothing else is raised;
items are finite float32 or uint8 of the model's shape, at most max_items of them, and no other reader disagrees, be it
about numbers, about the brightness of 16-bit pictures or about what was compressed;
a body of at most MAX_BODY_BYTES costs at most MAX_CPU_S of CPU and MAX_GROWTH_BYTES of memory.
"""

from __future__ import annotations

import json
import math
import re
import resource
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow import encode
from smartbatch_worker.flow.decode import Decoded, decode
from smartbatch_worker.formats import FORMATS, Format, content_encoding
from smartbatch_worker.kernels import json_numbers
from smartbatch_worker.torchserve.requests import read_rows

from fuzz import oracles
from fuzz.seeds import OPEN_INFERENCE_JSON_BYTES

MAX_BODY_BYTES = 64 * 1024
MAX_CPU_S = 1.0
MAX_GROWTH_BYTES = 256 * 2**20
MAX_ANSWER_BYTES = 4096

_SIDE = 32
_LIMITS = {"max_pixels": 1_000_000, "max_elements": 2**16, "max_items": 16, "image_resize": _SIDE, "image_crop": _SIDE}
CONFIGS = (
    WorkerConfig.resolve(_LIMITS, {}),
    WorkerConfig.resolve({**_LIMITS, "input_shape": [4]}, {}),
    WorkerConfig.resolve({**_LIMITS, "input_shape": None, "sample_rate": 16_000}, {}),
    WorkerConfig.resolve({**_LIMITS, "input_shape": [1, None, None], "image_mean": [0.5], "image_std": [0.5]}, {}),
    WorkerConfig.resolve(
        {
            **_LIMITS,
            "inputs": {
                "ids": {"dtype": "int64", "shape": ["L"], "pad": 0},
                "x": {"dtype": "float32", "shape": [2]},
            },
        },
        {},
    ),
    WorkerConfig.resolve({**_LIMITS, "image_resize": None, "image_crop": None}, {}),
)


with tempfile.TemporaryDirectory() as _folder:
    json_numbers.prepare(Path(_folder))


class Finding(Exception):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    name: str
    content_type: str
    oracle: Callable[[bytes], Any] | None = None

    def run(self, data: bytes) -> bool:
        """Decode `data` as every kind of model would; True where one of them accepts it.

        Raises:
            Finding: a promise was broken. Any other exception is one, too.
        """
        if self.name in _OF_NO_MODEL:
            return _OF_NO_MODEL[self.name](data)
        accepted = [self._run_for(data, config) for config in CONFIGS]
        return any(accepted)

    def outcome(self, data: bytes) -> str:
        """What becomes of `data`, numbers and quoted parts left out: bodies of one outcome take the same way."""
        if self.name == "gzip":
            try:
                return str(len(content_encoding.inflate(data, "gzip")) > 0)
            except RowError as error:
                return error.message
        found = []
        for config in CONFIGS:
            try:
                decode(data, self.content_type, config)
                found.append("accepted")
            except RowError as error:
                found.append(re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "", error.message))
        return "|".join(found)

    def run_once(self, data: bytes) -> None:
        """Decode `data` once, for a model chosen by its bytes: as many times more bodies in the same time."""
        if self.name in _OF_NO_MODEL:
            _OF_NO_MODEL[self.name](data)
        else:
            self._run_for(data, CONFIGS[zlib.crc32(data) % len(CONFIGS)])

    def _run_for(self, data: bytes, config: WorkerConfig) -> bool:
        memory_before, cpu_before = _peak_bytes(), time.process_time()
        try:
            decoded = decode(bytearray(data), self.content_type, config)
        except RowError as error:
            check_answer(error)
            return False
        finally:
            cpu_s = time.process_time() - cpu_before
            if len(data) <= MAX_BODY_BYTES and cpu_s > MAX_CPU_S:
                raise Finding(f"{len(data)} bytes took {cpu_s:.1f} s of CPU")
            growth = _peak_bytes() - memory_before
            if len(data) <= MAX_BODY_BYTES and growth > MAX_GROWTH_BYTES:
                raise Finding(f"{len(data)} bytes took {growth} bytes of memory")
        check_items(decoded, config)
        if self.oracle is not None and config.input_shape is None and config.inputs is None and not decoded.is_image:
            _compare(decoded.items[0], self.oracle(data))
        if decoded.is_image and config.image_size == (_SIDE, _SIDE):
            _check_brightness(decoded.items[0], data)
        return True


def target_name(row: Format) -> str:
    """Of the target that fuzzes a format: pictures share one, since a few bytes changed make the one the other."""
    return "image" if row.is_image else row.name


def _target(row: Format) -> Target:
    name = target_name(row)
    return Target(name, "".join(row.media_types[:1]), oracles.OF_FORMATS.get(name))


TARGETS = {
    target.name: target
    for target in (
        *map(_target, FORMATS),
        Target("open-inference-binary", f"{media_types.OPEN_INFERENCE}; json={OPEN_INFERENCE_JSON_BYTES}"),
        Target("gzip", ""),
        Target("headers", ""),
    )
}


def check_answer(error: RowError) -> None:
    """A refusal blames the client, and its answer is small JSON."""
    if not 400 <= error.status < 500:
        raise Finding(f"status {error.status}") from error
    answer = encode.encode_error(error)
    if len(answer) > MAX_ANSWER_BYTES:
        raise Finding(f"an answer of {len(answer)} bytes") from error
    if set(json.loads(answer)["error"]) != {"code", "message"}:
        raise Finding(f"the answer is {answer!r}") from error


def check_items(decoded: Decoded, config: WorkerConfig) -> None:
    """Items are what the model may be given."""
    if not 1 <= len(decoded.items) <= config.max_items:
        raise Finding(f"{len(decoded.items)} items")
    if config.inputs is not None:
        for item in decoded.items:
            _check_named(item)
        return
    for item in decoded.items:
        if item.dtype not in (torch.float32, torch.uint8) or item.numel() == 0:
            raise Finding(f"an item of {item.dtype} {list(item.shape)}")
        expected = config.input_shape
        if expected is not None and (
            len(expected) != item.ndim or any(e not in (None, s) for e, s in zip(expected, item.shape, strict=True))
        ):
            raise Finding(f"an item of shape {list(item.shape)} for {expected}")
        if not bool(torch.isfinite(item.float()).all()):
            raise Finding("an item that is not finite")


def _check_named(item: dict[str, torch.Tensor]) -> None:
    """Of the one model of `CONFIGS` that has named inputs."""
    ids, x = item["ids"], item["x"]
    if len(item) != 2 or (ids.dtype, x.dtype) != (torch.int64, torch.float32) or ids.ndim != 1 or x.shape != (2,):
        raise Finding(f"an item of {ids.dtype} {list(ids.shape)} and {x.dtype} {list(x.shape)}")
    if ids.numel() == 0 or not bool(torch.isfinite(x).all()):
        raise Finding("an item that is empty, or not finite")


def _compare(item: torch.Tensor, other: Any) -> None:
    if other is None:
        return
    with np.errstate(over="ignore"):
        expected = np.asarray(other).astype(item.numpy().dtype)
    if expected.shape != tuple(item.shape) or not np.array_equal(expected, item.numpy()):
        raise Finding(f"another reader sees {expected.shape} {expected.ravel()[:8]}, we {item.shape} {item}")


def _check_brightness(item: torch.Tensor, data: bytes) -> None:
    try:
        expected = oracles.mean_of_16_bit_grey(data, _SIDE)
    except (OSError, SyntaxError, ValueError):  # text or a profile that Pillow refuses, and we do not read
        return
    if expected is not None and abs(float(item.float().mean()) - expected) > 1:
        raise Finding(f"16-bit greys of mean {expected} are seen as {float(item.float().mean())}")


def _run_gzip(data: bytes) -> bool:
    """A body that came compressed is what the standard library makes of it, and bounded."""
    try:
        inflated = content_encoding.inflate(bytearray(data), "gzip")
    except RowError as error:
        check_answer(error)
        return False
    if len(inflated) > content_encoding.MAX_BODY_BYTES or inflated != oracles.read_gzip(data):
        raise Finding(f"inflated to {len(inflated)} bytes, and otherwise by another reader")
    return True


class _Context:
    """Of TorchServe's context, what reading rows needs."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return self._headers


def _run_headers(data: bytes) -> bool:
    """Lines are the values of the headers we read."""
    lines = data.decode("utf-8", "replace").split("\n")
    names = (
        "X-Request-Deadline-Ms",
        "x-request-start",
        "Content-Type",
        "Accept",
        "X-SmartBatch-Output",
        "Inference-Header-Content-Length",
        "X-SmartBatch-Protocol",
    )
    headers = dict(zip(names, lines, strict=False))
    body = b'{"data": [1, 2, 3, 4]}'
    (row,) = read_rows([{"body": body}], _Context(headers))
    if row.error is not None:
        check_answer(row.error)
        return False
    if math.isnan(row.deadline) or (lines[0] and row.deadline == math.inf):
        raise Finding(f"deadline {row.deadline} for {lines[0]!r}")
    try:
        decode(body, row.headers.get("content-type", "").lower(), CONFIGS[1])
    except RowError as error:
        check_answer(error)
    return True


# Decoders that know no model's shape.
_OF_NO_MODEL = {"headers": _run_headers, "gzip": _run_gzip}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
