"""What the Open Inference Protocol costs: one float32 picture as its binary tensor, and as .npy, on one real server.

    python -m bench.experiments.open_inference [--rounds 9] [--seconds 4] [--connections 16] [--out bench/results]

The model averages its picture, so that a request's time is that of its 600 kB. Both bodies are sent in turns, by wrk,
and both answers are checked before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract import media_types, open_inference

from bench.load import Body, run_wrk, warm_up_jvm
from bench.machine import describe
from bench.work import npy

SIDE = 224
JSON_BYTES = 251
"""Of the protocol's JSON, with blanks: no multiple of 4, as with most clients, so that the numbers are copied once."""

MODEL = """
import torch

class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))
"""


@dataclass(slots=True)
class Contestant:
    """One way to send the picture, and what was measured of it."""

    path: str
    body: Body
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    num_failed: int = 0


def contestants(picture: np.ndarray[Any, Any]) -> dict[str, Contestant]:
    """By name."""
    numbers = picture.tobytes()
    given = {
        "name": open_inference.INPUT,
        "shape": list(picture.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(numbers)},
    }
    text = json.dumps({"inputs": [given]}).encode().ljust(JSON_BYTES)
    assert len(text) == JSON_BYTES
    kind = f"{media_types.OPEN_INFERENCE}; json={JSON_BYTES}"
    return {
        "npy": Contestant("/predictions/mean", Body(media_types.NPY, (npy(picture),))),
        "open-inference": Contestant("/v2/models/mean/infer", Body(kind, (text + numbers,))),
    }


def check(url: str, contestant: Contestant, expected: np.ndarray[Any, Any]) -> None:
    """One answer, held against NumPy's."""
    (payload,), kind = contestant.body.payloads, contestant.body.content_type
    answer = requests.post(url + contestant.path, data=payload, headers={"Content-Type": kind}, timeout=60).json()
    found = answer["result"] if "result" in answer else answer["outputs"][0]["data"]
    assert np.allclose(np.array(found).reshape(expected.shape), expected, atol=1e-4), answer


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.experiments.open_inference", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--warmup", type=float, default=40, help="seconds at most, of each body")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    picture = np.random.default_rng(5).standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)
    both = contestants(picture)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        source = Path(folder) / "model.py"
        source.write_text(MODEL, encoding="utf-8")
        build_archive(ArchiveSettings(model_file=source, name="mean", input_shape="3,*,*", output=Path(folder)))
        settings = ServerSettings(
            model_store=Path(folder),
            run_dir=Path(folder) / "run",
            inference_port=0,
            management_port=0,
            metrics_port=0,
        )
        with start_server(settings) as server:
            with server.management() as client:
                client.register("mean.mar", batch_size=8, max_batch_delay_ms=2, workers=1)
                client.wait_ready("mean")
            for contestant in both.values():
                check(server.inference_url, contestant, picture.mean((2, 3)))
                url = server.inference_url + contestant.path
                warm_up_jvm(url, contestant.body, options.connections, server.pid, options.warmup)
            for number in range(options.rounds):
                for contestant in list(both.values())[:: -1 if number % 2 else 1]:
                    url = server.inference_url + contestant.path
                    run = run_wrk(url, contestant.body, options.connections, options.seconds, server.pid)
                    contestant.rates.append(run.requests_per_s)
                    contestant.num_failed += run.num_failed
                    if run.server_cpu_ms is not None:
                        contestant.cpu_ms.append(run.server_cpu_ms)
    ours, npys = both["open-inference"], both["npy"]
    results: dict[str, Any] = {
        "machine": describe(),
        "rates": {name: each.rates for name, each in both.items()},
        "server_cpu_ms": {name: each.cpu_ms for name, each in both.items()},
        "failed": {name: each.num_failed for name, each in both.items()},
        "rate_ratio": statistics.median(a / b for a, b in zip(ours.rates, npys.rates, strict=True)),
        "cpu_ratio": statistics.median(ours.cpu_ms) / statistics.median(npys.cpu_ms),
    }
    for name, each in both.items():
        print(
            f"{name:15} {statistics.median(each.rates):7.1f} requests/s ({min(each.rates):.1f}–{max(each.rates):.1f}), "
            f"{statistics.median(each.cpu_ms):.2f} ms CPU a request, {each.num_failed} failed"
        )
    print(
        f"open-inference is {results['rate_ratio']:.3f} of npy's rate, and takes {results['cpu_ratio']:.3f} of its CPU"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "open-inference.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
