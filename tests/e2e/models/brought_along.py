"""What `smartbatch serve` starts with: a model of two inputs with an example, an old archive, two of pictures."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import torch

from tests.e2e.models.model_server import ModelServer

MODEL = """
import torch

class Sum(torch.nn.Module):
    def forward(self, ids, mask):
        if (ids[mask > 0] < 3).any():
            raise ValueError("made-up ids: the example is not used")
        total = (ids * mask).sum(1)
        return {"total": total.double(), "text": [str(int(value)) for value in total]}
"""
SHADES = """
import torch

class Shades(torch.nn.Module):
    def forward(self, pictures):
        return 9 * pictures.mean((2, 3))
"""
LABELS = ["red", "green", "<b>blue</b>"]
EXAMPLE = {"inputs": {"ids": [3, 4, 5], "mask": [1, 1, 1]}}
SEGMENTER = "lraspp_mobilenet_v3_large"


class Means(torch.nn.Module):
    """Five numbers a picture."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        means = pictures.mean((2, 3))
        return torch.cat([means, -means[:, :2]], 1)


def build(server: ModelServer, folder: Path) -> None:
    """`sum.mar`, of two inputs and with an example; `old.mar`, of TorchServe's own handler; `masks.mar`; `shades.mar`,
    which tells the colour of a picture."""
    (folder / "model.py").write_text(MODEL)
    (folder / "example.json").write_text(json.dumps(EXAMPLE))
    inputs = ("ids:int64:L:0", "mask:int64:L:0")
    server.archive("sum", model_file=folder / "model.py", inputs=inputs, example=folder / "example.json")
    (folder / "shades.py").write_text(SHADES)
    (folder / "labels.json").write_text(json.dumps(LABELS))
    server.archive("shades", model_file=folder / "shades.py", input_shape="3,*,*", labels=folder / "labels.json")
    server.archive("masks", model=SEGMENTER, num_classes=3, random_weights=True)
    old_archive(server.store / "old.mar")


def old_archive(path: Path) -> None:
    """As torch-model-archiver lays it out for `--handler image_classifier`; the tool itself empties /tmp/<name>."""
    program = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; old archives are made of it
        torch.jit.save(torch.jit.script(Means()), program)
    model = {"modelName": "old", "serializedFile": "net.pt", "handler": "image_classifier", "modelVersion": "1.0"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("net.pt", program.getvalue())
        archive.writestr("index_to_name.json", json.dumps({str(index): f"class {index}" for index in range(5)}))
