"""A small BERT with seeded weights, and texts of log-normal length, for SmartBatch and for TorchServe's own server."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings

from bench.experiments.padding import make_model, sentences
from bench.load import Body
from bench.work import write_mar

NAME = "bert"
LAYERS, HIDDEN = 4, 512
"""As the one that its authors call small."""
LEAD = 1e-3
"""Of the best class over the second: texts with less could be answered otherwise by rounding."""

_HANDLER = Path(__file__).parent / "servers" / "torchserve_texts.py"


def make(folder: Path, own: Path, stock: Path) -> tuple[Body, list[int]]:
    """Write both archives.

    Args:
        folder: for the model's own files.
        own: SmartBatch's archive.
        stock: TorchServe's.

    Returns:
        Bodies, and each one's class by eager PyTorch.
    """
    bert = folder / NAME
    plain = make_model(bert, LAYERS, HIDDEN)
    bodies, classes = [], []
    for ids in sentences():
        with torch.inference_mode():
            best = plain(input_ids=torch.tensor([ids])).logits[0].topk(2)
        if float(best.values[0] - best.values[1]) >= LEAD:
            bodies.append(json.dumps({"text": " ".join(f"w{index}" for index in ids)}).encode())
            classes.append(int(best.indices[0]))
    build_archive(ArchiveSettings(hf=str(bert), name=own.stem, output=own.parent))
    files = {file.name: file for file in (_HANDLER, *sorted(bert.iterdir()))}
    write_mar(stock, _HANDLER.name, files, {"responseTimeout": 300})
    return Body("application/json", tuple(bodies)), classes
