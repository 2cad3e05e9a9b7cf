"""What an expert's server does with a batch of JPEGs: libjpeg-turbo, OpenCV, the fastest forward that a library makes.

    BENCH_EXPERT='{"engine": "openvino", …}' python -m bench.servers.expert 1 8 32

prints images/s of that engine by micro-batch. Needs nothing of SmartBatch: TorchServe's archive carries this file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIDE, RESIZED = 224, 256
ENVIRONMENT = "BENCH_EXPERT"

Forward = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, 224, 224, 3] to scores, float32 [N, classes]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How one server is set up; `bench/experts/search.py` chooses it by measuring."""

    engine: str
    """Key of ENGINES."""
    precision: str
    """fp32 or bf16."""
    folder: str
    """Where `bench.experts.export` has written the model."""
    processes: int
    """That compute."""
    threads: int
    """Of each: OpenVINO's streams, ONNX Runtime's and PyTorch's threads."""
    decoders: int
    """Processes that only decode, where the framework has stages; 0: those that compute do it."""
    batch_size: int
    micro_batch: int
    """Most images in one forward."""

    @classmethod
    def read(cls) -> Setup:
        """This process's."""
        return cls(**json.loads(os.environ[ENVIRONMENT]))


def decode(body: bytes) -> np.ndarray:
    """A JPEG to uint8 [224, 224, 3]: shorter side 256 and the centre of it, of which only the centre is resized."""
    import cv2  # type: ignore[import-not-found,unused-ignore]
    import simplejpeg  # type: ignore[import-not-found,unused-ignore]

    # Scales between a whole and a half have no SIMD, and are slower than decoding all of it. Fast DCT and upsampling
    # save a twentieth, and give one of the bench's images another class.
    image = simplejpeg.decode_jpeg(body, "RGB", min_height=RESIZED, min_width=RESIZED, min_factor=2)
    height, width = image.shape[:2]
    side = min(height, width) * SIDE / RESIZED
    top, left = (height - side) / 2, (width - side) / 2
    centre = image[round(top) : round(top + side), round(left) : round(left + side)]
    resized: np.ndarray = cv2.resize(centre, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return resized


class Expert:
    """Decoder and forward of one process.

    Args:
        setup: how it is set up.
    """

    def __init__(self, setup: Setup) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._forward = ENGINES[setup.engine](setup)
        self._decoders = ThreadPoolExecutor(setup.threads) if setup.threads > 1 and not setup.decoders else None

    def answer(self, bodies: Sequence[bytes]) -> list[int]:
        """JPEGs to their best classes."""
        decoded = map(decode, bodies) if self._decoders is None else self._decoders.map(decode, bodies)
        return self.classify(list(decoded))

    def classify(self, images: Sequence[np.ndarray]) -> list[int]:
        """Decoded images to their best classes."""
        classes: list[int] = self._forward(np.stack(images)).argmax(1).tolist()
        return classes


def openvino(setup: Setup) -> Forward:
    """As many streams as threads: parts of a batch are computed beside each other."""
    import openvino as ov

    compiled = ov.Core().compile_model(
        str(Path(setup.folder) / "expert.xml"),
        "CPU",
        {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": setup.threads,
            "INFERENCE_NUM_THREADS": setup.threads,
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[setup.precision],
        },
    )
    requests = [compiled.create_infer_request() for _ in range(setup.threads)]

    def forward(images: np.ndarray) -> np.ndarray:
        size = min(setup.micro_batch, -(-len(images) // len(requests)))
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        scores = []
        for first in range(0, len(parts), len(requests)):
            running = list(zip(requests, parts[first : first + len(requests)], strict=False))
            for request, part in running:
                request.set_input_tensor(ov.Tensor(part, shared_memory=True))
                request.start_async()
            for request, _ in running:
                request.wait()
                scores.append(request.get_output_tensor().data.copy())
        return np.concatenate(scores)

    return forward


def onnxruntime(setup: Setup) -> Forward:
    """Its default graph optimisations, which are all of them; it has no bf16 on CPUs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = setup.threads
    path = str(Path(setup.folder) / "expert.onnx")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())

    def forward(images: np.ndarray) -> np.ndarray:
        size = setup.micro_batch
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate([session.run(None, {name: part})[0] for part in parts])

    return forward


def inductor(setup: Setup) -> Forward:
    """torch.compile with frozen weights, for one size of a forward: smaller ones are filled up."""
    import torch
    from torch._inductor import config

    config.freezing = True
    torch.set_num_threads(setup.threads)
    program: Any = torch.export.load(Path(setup.folder) / f"expert_{setup.precision}.pt2")
    compiled: Any = torch.compile(program.module(), dynamic=False)
    batch = torch.zeros((setup.micro_batch, SIDE, SIDE, 3), dtype=torch.uint8)

    def forward(images: np.ndarray) -> np.ndarray:
        scores = []
        with torch.no_grad():
            for start in range(0, len(images), setup.micro_batch):
                part = torch.from_numpy(images[start : start + setup.micro_batch])
                batch[: len(part)] = part
                scores.append(compiled(batch)[: len(part)].float().numpy().copy())
        return np.concatenate(scores)

    return forward


ENGINES: dict[str, Callable[[Setup], Forward]] = {
    "openvino": openvino,
    "onnxruntime": onnxruntime,
    "inductor": inductor,
}


def images_per_s(setup: Setup, seconds: float) -> float:
    """Of one process's forward at whole micro-batches, once it is warm."""
    forward = ENGINES[setup.engine](setup)
    images = np.random.default_rng(0).integers(0, 256, (setup.micro_batch, SIDE, SIDE, 3), dtype=np.uint8)
    for _ in range(2):
        forward(images)
    done, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        forward(images)
        done += len(images)
    return done / took


def main() -> None:
    """Images/s of this process's engine by micro-batch, as JSON."""
    from dataclasses import replace

    setup, seconds = Setup.read(), float(os.environ.get("BENCH_SECONDS", "1"))
    sizes = [int(size) for size in sys.argv[1:]]
    print(json.dumps({size: images_per_s(replace(setup, micro_batch=size), seconds) for size in sizes}), flush=True)


if __name__ == "__main__":
    main()
