"""What one bench run lays out on disk before any server starts: images, weights, archives."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings

from bench import images
from bench.load import Body
from bench.servers import expert
from bench.weights import make_weights, reference_classes

NUM_IMAGES = 8
"""Per size; the load goes round them."""

STOCK_MODEL = """
from torchvision.models.resnet import BasicBlock, ResNet


class ImageClassifier(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
"""


@dataclass(frozen=True)
class Work:
    """One run's folder and what is in it."""

    folder: Path
    overrides: tuple[tuple[str, str], ...] = ()
    """Further handler keys of the SmartBatch archives, `--set KEY=VALUE`."""
    setups: dict[str, expert.Setup] = field(default_factory=dict)
    """How the experts' servers are set up, by their keys in `backends.start`."""

    @property
    def weights(self) -> Path:
        """State dict that every contestant loads."""
        return self.folder / "weights.pth"

    @property
    def store(self) -> Path:
        """Model store of both TorchServes."""
        return self.folder / "store"

    @property
    def model_dir(self) -> Path:
        """SmartBatch's archive, unpacked."""
        return self.folder / "unpacked"

    @property
    def expert_dir(self) -> Path:
        """The model as the experts' engines read it."""
        return self.folder / "expert"

    @cached_property
    def photos(self) -> tuple[bytes, ...]:
        """375×500 JPEGs."""
        return tuple(images.jpeg(375, 500, seed) for seed in range(NUM_IMAGES))

    @cached_property
    def squares(self) -> tuple[bytes, ...]:
        """224×224 JPEGs."""
        return tuple(images.jpeg(224, 224, 100 + seed) for seed in range(NUM_IMAGES))

    @cached_property
    def bodies(self) -> dict[str, Body]:
        """Request bodies by workload. The same 224×224 pixels as JSON, uint8 .npy and JPEG."""
        seeds = [100 + seed for seed in range(NUM_IMAGES)]
        return {
            "jpeg375": Body("image/jpeg", self.photos),
            "jpeg224": Body("image/jpeg", self.squares),
            "npy": Body("application/octet-stream", tuple(images.uint8_npy(224, seed) for seed in seeds)),
            "json": Body("application/json", tuple(images.json_body(224, seed) for seed in seeds)),
        }

    @cached_property
    def expected(self) -> dict[str, list[int]]:
        """Eager float32's class for each body.

        Raises:
            ValueError: two classes are so close that a right answer could differ.
        """
        from bench.servers.documented import to_tensor

        pixels = {
            "jpeg375": [to_tensor(body) for body in self.photos],
            "jpeg224": [to_tensor(body) for body in self.squares],
            "json": [torch.from_numpy(images.tensor(224, 100 + seed)) for seed in range(NUM_IMAGES)],
        }
        classes: dict[str, list[int]] = {}
        for workload, tensors in pixels.items():
            classes[workload], lead = reference_classes(torch.stack(tensors), self.weights)
            if lead < 0.05:
                raise ValueError(f"the images of {workload} are too alike to judge answers by: lead {lead:.3f}")
        return classes | {"npy": classes["json"]}

    def build(self) -> None:
        """Write weights and archives."""
        self.store.mkdir(parents=True, exist_ok=True)
        make_weights([*self.photos, *self.squares], self.weights)
        overrides = dict(self.overrides)
        self.archive("smartbatch", overrides)
        self.archive("smartbatch_bf16", overrides | {"precision": "bf16"})
        with zipfile.ZipFile(self.store / "smartbatch.mar") as archive:
            archive.extractall(self.model_dir)
        stock_archive(self.store / "stock.mar", self.weights)

    def take_over(self, choices: Mapping[str, str | int]) -> None:
        """Set keys of `model_dir`'s handler section: what others run then is no choice of theirs."""
        file = self.model_dir / "model-config.yaml"
        config = yaml.safe_load(file.read_text())
        config["handler"] |= choices
        file.write_text(yaml.safe_dump(config))

    def expert_archive(self, name: str, setup: expert.Setup) -> str:
        """Write TorchServe's archive of an expert's handler.

        Returns:
            Its name in the model store.
        """
        config = {"handler": asdict(setup), "responseTimeout": 300, "startupTimeout": 300, "jobQueueSize": 1024}
        handler = Path(expert.__file__).with_name("torchserve_expert.py")
        files = {handler.name: handler, "expert.py": Path(expert.__file__)}
        write_mar(self.store / f"{name}.mar", handler.name, files, config)
        return f"{name}.mar"

    def archive(self, name: str, overrides: dict[str, str]) -> None:
        """Build ResNet18 with these weights and keys."""
        settings = ArchiveSettings(
            model="resnet18", model_path=self.weights, name=name, overrides=overrides, output=self.store, force=True
        )
        build_archive(settings)


def stock_archive(path: Path, weights: Path, source: str = STOCK_MODEL) -> None:
    """As torch-model-archiver would pack it, for the handler named image_classifier.

    Args:
        path: the .mar.
        weights: a state dict.
        source: of the one class that it fits.
    """
    labels = json.dumps({str(i): str(i) for i in range(1000)})
    files: dict[str, str | Path] = {"model.py": source, "index_to_name.json": labels, weights.name: weights}
    write_mar(path, "image_classifier", files, modelFile="model.py", serializedFile=weights.name)


def write_mar(
    path: Path,
    handler: str,
    files: Mapping[str, str | Path],
    config: Mapping[str, Any] | None = None,
    **keys: str,
) -> None:
    """An archive of another handler than SmartBatch's.

    Args:
        path: the .mar; its stem is the model's name.
        handler: its file among `files`, or a name that TorchServe knows.
        files: text or a file, by name in the archive.
        config: of model-config.yaml.
        keys: further ones of the manifest's model.
    """
    model = {"modelName": path.stem, "handler": handler, "modelVersion": "1.0", **keys}
    if config is not None:
        files = {**files, "model-config.yaml": yaml.safe_dump(dict(config))}
        model["configFile"] = "model-config.yaml"
    with zipfile.ZipFile(path, "w") as archive:
        manifest = {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        for name, content in files.items():
            archive.writestr(name, content.read_bytes() if isinstance(content, Path) else content)


def top_class(reply: bytes) -> int:
    """The best class of any contestant's answer: an index, labels with scores best first, or one score a class."""
    answer = json.loads(reply)
    while True:
        if isinstance(answer, str):
            answer = json.loads(answer)
        elif isinstance(answer, int):
            return answer
        elif isinstance(answer, list) and len(answer) > 5:
            return int(np.argmax(answer))
        elif isinstance(answer, list):
            answer = answer[0]
        else:
            key = next((name for name in ("result", "answer", "class", "index") if name in answer), None)
            answer = int(next(iter(answer))) if key is None else answer[key]


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
