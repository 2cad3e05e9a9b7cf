"""As bench.experiments.compilers, for a small BERT and texts of log-normal length: texts a second on one thread.

    bench/.venv/bin/python -m bench.experiments.text_compilers [--rounds 5]

SmartBatch's handler sorts the 64 texts into forwards and pads them. A library's compiler is given one text at a time,
which is what it has by itself, and the same forwards as SmartBatch's. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch_worker.contract import environment
from smartbatch_worker.flow.batch import Item
from smartbatch_worker.flow.rows import Row

from bench import texts
from bench.experiments.compilers import OWN, OWN_ALONE, TOLERANCE, alone, own
from bench.experiments.padding import make_model, sentences
from bench.identical import Worker
from bench.progress import say

Named = dict[str, torch.Tensor]
Forward = Callable[[Named], torch.Tensor]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LARGEST = 64
ALONE, SAME = "one a text", "forwards of SmartBatch"


class Plain(torch.nn.Module):
    """The model as a function of its inputs in order, which compilers read."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Scores, [N, classes]."""
        scores: torch.Tensor = self.model(**dict(zip(INPUTS, tensors, strict=True))).logits
        return scores


def openvino(model: Plain, examples: Sequence[Named]) -> Forward:
    """Of any number of texts of any length."""
    import openvino as ov

    example = tuple(examples[0][name] for name in INPUTS)
    traced = torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]
    converted = ov.convert_model(traced, input=[(ov.PartialShape([-1, -1]), ov.Type.i64)] * len(INPUTS))
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(converted, "CPU", hints)
    return lambda batch: torch.from_numpy(compiled([batch[name].numpy() for name in INPUTS])[0])


def onnxruntime(model: Plain, examples: Sequence[Named]) -> Forward:
    """Of any number of texts of any length."""
    import onnxruntime as ort

    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        example = tuple(examples[0][name] for name in INPUTS)
        torch.onnx.export(
            model,
            example,
            str(path),
            dynamo=True,
            dynamic_shapes=((free,) * len(INPUTS),),
            input_names=INPUTS,
            verbose=False,
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {name: batch[name].numpy() for name in INPUTS})[0])


def inductor(model: Plain, examples: Sequence[Named]) -> Forward:
    """torch.compile with frozen weights, for free sizes."""
    from torch._inductor import config

    config.freezing = True
    compiled: Any = torch.compile(model, dynamic=True)

    def forward(batch: Named) -> torch.Tensor:
        with torch.no_grad():
            scores: torch.Tensor = compiled(*(batch[name] for name in INPUTS))
        return scores

    for example in examples:  # one text and several are compiled apart
        forward(example)
    return forward


LIBRARIES = {"inductor": inductor, "openvino": openvino, "onnxruntime": onnxruntime}


def planned(worker: Worker, bodies: Sequence[bytes]) -> tuple[list[Named], list[Named]]:
    """The handler's forwards of these requests; and one a request."""
    handler, items = worker.handler, []
    for index, body in enumerate(bodies):
        row = Row(body, {"content-type": "application/json"})
        handler._decode(row)
        items.append(Item(row.items[0], index, 0))

    def stacked(some: Sequence[Item]) -> Named:
        return {name: tensor.clone() for name, tensor in handler._batcher.stack(some).items()}

    micro_batches = handler._batcher.plan(items, handler.model.micro_batch_size)
    return [stacked(one.items) for one in micro_batches], [stacked([item]) for item in items]


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Texts a second, medians over rounds in turns."""
    torch.set_num_threads(1)
    model = make_model(folder / texts.NAME, texts.LAYERS, texts.HIDDEN)
    archive = build_archive(ArchiveSettings(hf=str(folder / texts.NAME), name=texts.NAME, output=folder))
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "unpacked")
    bodies = [json.dumps({"text": " ".join(f"w{index}" for index in ids)}).encode() for ids in sentences()]
    runs: dict[str, tuple[Forward, list[Named]]] = {}
    ways = {}
    say(OWN)
    worker, forward, ways[OWN] = own(folder / "unpacked", LARGEST)
    together, one_by_one = planned(worker, bodies)
    runs[OWN] = forward, together
    with alone():
        worker, forward, ways[OWN_ALONE] = own(folder / "unpacked", LARGEST)
    runs[OWN_ALONE] = forward, planned(worker, bodies)[0]
    failed = {}
    for name, build in LIBRARIES.items():
        say(name)
        try:
            forward = build(
                Plain(model).eval(), [max(together, key=lambda batch: len(batch["input_ids"])), one_by_one[0]]
            )
        except Exception as error:  # a compiler may fail in any way; the others are measured
            failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
            say(f"  {failed[name]}")
            continue
        runs[f"{name}, {SAME}"] = forward, together
        runs[f"{name}, {ALONE}"] = forward, one_by_one
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        expected = [model(**batch).logits for batch in together]
        for name, (forward, batches) in runs.items():
            if batches is together:
                for batch, wanted in zip(batches, expected, strict=True):
                    difference = float((forward(batch) - wanted).abs().max() / wanted.abs().max())
                    if difference > TOLERANCE:
                        raise ValueError(f"{name} differs by {difference:.1e} of the largest answer")
        for number in range(rounds + 1):
            say(f"round {number}/{rounds}")
            for name, (forward, batches) in runs.items():
                started = time.perf_counter()
                for batch in batches:
                    forward(batch)
                if number:  # the first sets things up
                    times[name].append(time.perf_counter() - started)
    rates = {name: round(len(bodies) / statistics.median(taken), 2) for name, taken in times.items()}
    by_itself, same = (
        max((name for name in rates if name.endswith(how)), key=rates.__getitem__) for how in (ALONE, SAME)
    )
    return {
        "model": texts.NAME,
        "texts_per_s": rates,
        "forwards": {name: len(batches) for name, (_, batches) in runs.items()},
        "ways": ways,
        "failed": failed,
        "best_library": by_itself,
        "ratios": {name: round(rates[name] / rates[by_itself], 3) for name in (OWN, OWN_ALONE)},
        "best_library_of_same_forwards": same,
        "ratios_of_same_forwards": {name: round(rates[name] / rates[same], 3) for name in (OWN, OWN_ALONE)},
        "seconds": times,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        (cache := Path(scratch) / "cache").mkdir(mode=0o700)
        os.environ[environment.CACHE_DIR] = str(cache)  # what is chosen is measured now
        print(json.dumps(measure(args.rounds, Path(scratch))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
